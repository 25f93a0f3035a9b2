-- One row is one try sent upstream, over all requests that the SDK's retries made of one logical request.
-- check: ordinal >= 1 and status in ('ok', 'failed', 'client_gone', 'unknown')
-- check: unique request_id, ordinal
with ids as (
    select s.raw_id, s.raw_ordinal, json_extract_string(s.headers, '$."' || h.header || '"') as upstream_request_id
    from steps s
    join headings n on n.side = 'response' and s.heading = n.heading
    join table_request_ids h on h.side = 'response' and n.name = h.header
    where json_extract_string(s.headers, '$."' || h.header || '"') is not null
    qualify row_number() over (partition by s.raw_id, s.raw_ordinal order by h.priority) = 1
),
attempts as (
    select
        s.request_id, s.ordinal, s.channel, s.role, s.reason, s.sent_model, s.served_model,
        case when s.outcome in ('ok', 'client_gone', 'unknown') then s.outcome else 'failed' end as status,
        cast(s.http_status as integer) as http_status,
        s.outcome, s.opened_at as started_at, s.closed_at as ended_at,
        c.charge as charged,
        s.raw_id as raw_request_id, cast(s.raw_ordinal as integer) as raw_ordinal,
        u.usage_source, u.input_tokens, u.output_tokens, u.vendor_charge,
        c.bucket, i.upstream_request_id, s.response_id, s.error, c.disposition, c.reason as disposition_reason, c.rule,
        s.first_token_at, d.service_tier, d.region, j.job_id, j.result_files
    from steps s
    join attempt_charges c on s.raw_id = c.raw_id and s.raw_ordinal = c.raw_ordinal
    join conditions d on s.raw_id = d.raw_id and s.raw_ordinal = d.raw_ordinal
    join usage_totals u on s.raw_id = u.raw_id and s.raw_ordinal = u.raw_ordinal
    left join job_ids j on s.raw_id = j.raw_id and s.raw_ordinal = j.raw_ordinal
    left join ids i on s.raw_id = i.raw_id and s.raw_ordinal = i.raw_ordinal
    where s.ordinal > 0
)
select * from attempts
