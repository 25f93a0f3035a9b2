-- One row is one try upstream: what was journaled before its first byte left, and how it ended if that was recorded.
-- A reply in brotli, which the proxy does not decode, tells what was read of it afterwards; is_unread: it has a body, and nothing could be.
-- Ordinal 0 is no try; it has a row only where it is all there is of a request: the proxy refused it before any try.
-- check: raw_id is not null and raw_ordinal is not null and opened_at is not null
-- check: select raw_id, raw_ordinal from tries group by raw_id, raw_ordinal having count(*) > 1
with opened as (
    select * from raw_attempt
    qualify row_number() over (partition by request_id, ordinal order by writer, seq) = 1
),
closed as (
    select * from raw_response
    qualify row_number() over (partition by request_id, ordinal order by writer, seq) = 1
),
joined as (
    select
        coalesce(o.request_id, c.request_id) as raw_id,
        coalesce(o.ordinal, c.ordinal) as raw_ordinal,
        o.request_id is not null as is_opened,
        c.request_id is not null as is_closed,
        o.channel, o.role, o.reason, o.url, o.sent_model, c.headers_at,
        coalesce(o.opened_at, c.headers_at, c.closed_at) as opened_at,
        c.http_status, c.headers, c.content_type, c.ending, c.error,
        coalesce(c.error_object, n.error_object) as error_object,
        coalesce(c.error_event, false) or coalesce(n.error_object is not null and c.http_status < 400, false) as error_event,
        c.first_token_at, c.closed_at, c.client_gone_at,
        coalesce(c.streamed, false) as streamed,
        c.terminal, c.body_state,
        coalesce(lower(c.content_encoding) like '%br%' and c.body_bytes > 0, false) and n.raw_id is null as is_unread,
        coalesce(n.output_seen, c.output_seen, false) as output_seen,
        coalesce(n.finish_reasons, array_to_string(c.finish_reasons, ' ')) as finish_reasons,
        array_to_string(c.notes, ' ') as notes,
        coalesce(c.response_id, n.response_id) as response_id,
        coalesce(c.served_model, n.served_model) as served_model,
        coalesce(c.service_tier, n.service_tier) as service_tier,
        case when n.raw_id is null then c.usage else n.usage end as usage,
        c.facts
    from opened o
    full join closed c on o.request_id = c.request_id and o.ordinal = c.ordinal
    left join reread n on c.request_id = n.raw_id and c.ordinal = n.raw_ordinal
),
tries as (
    select
        *,
        max(case when raw_ordinal = 0 then http_status end) over (partition by raw_id) as own_status
    from joined
    qualify raw_ordinal > 0 or max(raw_ordinal) over (partition by raw_id) = 0
)
select * from tries
