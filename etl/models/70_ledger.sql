-- One row is one logical request: what one call of an application asked, got and cost, with a digest of all of it. The digest's
-- text is one line a column in the contract's order, `name=value`, or `name` alone for a null.
-- check: regexp_matches(receipt_digest, '^[0-9a-f]{64}$')
-- check: unique request_id
-- check: status in ('ok', 'failed', 'client_gone', 'rejected', 'unknown')
-- check: attempt_count >= 0 and retry_count + fallback_count <= attempt_count
-- check: period is not null and wallet is not null and usage_source is not null
-- check: select count(*) from ledger having count(*) is distinct from (select count(distinct request_id) from members)
-- check: select f.request_id from ledger f left join (select request_id, sum(amount) as amount from charges group by request_id) c on f.request_id = c.request_id where f.final_charge is not null and f.final_charge is distinct from coalesce(c.amount, 0)
-- check: select f.request_id from ledger f left join (select request_id, -sum(amount) as amount from journal where wallet is not null and kind = 'charge' group by request_id) j on f.request_id = j.request_id where f.final_charge is not null and f.final_charge is distinct from coalesce(j.amount, 0)
-- check: (savings is null) = (status <> 'ok' or list_charge is null or final_charge is null)
-- check: coalesce(latency_ms, 0) >= 0 and coalesce(first_token_ms, 0) >= 0 and coalesce(fallback_latency_ms, 0) >= 0
-- check: leakage is null or final_charge is null or leakage <= final_charge
with firsts as (
    select m.request_id, r.received_at as created_at, r.endpoint, r.api_model, r.headers, r.heading, r.door, p.period
    from members m
    join received r on m.raw_id = r.raw_id
    join book_period p on r.received_at >= p.starts_at and r.received_at < p.ends_at
    where m.position = 1
),
lasts as (
    -- the last recorded request decides; where nothing at all was recorded of its tries, its end is unknown
    select m.request_id, s.outcome, s.http_status, s.own_status
    from members m left join steps s on m.raw_id = s.raw_id and s.place_from_end = 1
    where m.is_last
),
counted as (
    select
        request_id,
        cast(sum(case when ordinal > 0 then 1 else 0 end) as integer) as attempt_count,
        cast(sum(case when reason in ('client_retry', 'retry', 'without_usage_option') then 1 else 0 end) as integer) as retry_count,
        cast(sum(case when reason = 'fallback' then 1 else 0 end) as integer) as fallback_count,
        min(case when ordinal > 0 then opened_at end) as first_opened_at,
        max(closed_at) as last_closed_at
    from steps group by request_id
),
costs as (
    select
        request_id,
        case when sum(case when charge is null then 1 else 0 end) = 0 then cast(sum(charge) as decimal(38,12)) end as final_charge,
        case when sum(case when list_charge is null then 1 else 0 end) = 0 then cast(sum(list_charge) as decimal(38,12)) end as list_charge
    from attempt_charges group by request_id
),
told as (
    select request_id, raw_id, raw_ordinal, ordinal, channel, sent_model, served_model, first_token_at, outcome = 'ok' as is_served
    from steps where stands
),
-- requests with more than one try, which are few
several as (
    select s.request_id, s.ordinal, s.channel, s.opened_at, s.reason
    from steps s join counted n on s.request_id = n.request_id and n.attempt_count > 1
    where s.ordinal > 0
),
channel_starts as (
    select s.request_id, min(s.opened_at) as opened_at
    from several s join told t on s.request_id = t.request_id and s.channel = t.channel
    group by s.request_id
),
-- what was charged for tries that did not end ok
leaks as (
    select
        c.request_id,
        case when sum(case when c.charge is null then 1 else 0 end) = 0 then cast(sum(c.charge) as decimal(38,12)) end as leakage
    from attempt_charges c join steps s on c.raw_id = s.raw_id and c.raw_ordinal = s.raw_ordinal
    where s.outcome <> 'ok' group by c.request_id
),
vendor_charges as (
    select s.request_id, cast(sum(u.vendor_charge) as decimal(38,12)) as vendor_charge
    from steps s join usage_totals u on s.raw_id = u.raw_id and s.raw_ordinal = u.raw_ordinal
    where u.vendor_charge is not null
    group by s.request_id
),
primaries as (
    select request_id, channel from several where ordinal = 1
),
backups as (
    select request_id, channel from several where reason = 'fallback'
    qualify row_number() over (partition by request_id order by ordinal desc) = 1
),
policy_places as (
    select request_id, policy, min(raw_id || '/' || lpad(cast(raw_ordinal as varchar), 6, '0')) as place
    from policies where policy is not null group by request_id, policy
),
policy_names as (
    select request_id, string_agg(policy, '; ' order by place, policy) as failed_request_policy from policy_places group by request_id
),
legs as (
    select l.request_id, l.entry_id, s.outcome, s.ordinal, s.stands
    from charge_legs l join steps s on l.raw_id = s.raw_id and l.raw_ordinal = s.raw_ordinal
    where l.wallet is not null
),
entries as (
    select request_id, entry_id from legs where stands
    union all
    select l.request_id, l.entry_id
    from legs l anti join (select request_id from legs where stands) t on l.request_id = t.request_id
    where not l.stands
    qualify row_number() over (partition by l.request_id order by case when l.outcome = 'ok' then 0 else 1 end, l.ordinal desc) = 1
),
adjustments as (
    select
        request_id, cast(sum(amount) as decimal(38,12)) as adjustment_amount,
        string_agg(reason, '; ' order by posted_at, entry_id) as adjustment_reason
    from (
        select request_id, amount, reason, posted_at, entry_id from admin_legs where wallet is not null and kind in ('adjustment', 'refund')
        union all
        select request_id, amount, reason, posted_at, entry_id from reversal_legs where wallet is not null
    )
    where request_id is not null
    group by request_id
),
context_prices as (
    select
        context,
        max(case when meter = 'input' then charge_unit_price end) as input_unit_price,
        max(case when meter = 'output' then charge_unit_price end) as output_unit_price
    from prices where token_from = 0 group by context
),
unit_prices as (
    select p.raw_id, p.raw_ordinal, max(c.input_unit_price) as input_unit_price, max(c.output_unit_price) as output_unit_price
    from (
        select raw_id, raw_ordinal, context from billed_pieces where is_metered
        union all
        select raw_id, raw_ordinal, call_context from billed_pieces where is_call and (call_context <> context or not is_metered)
    ) p join context_prices c on p.context = c.context
    group by p.raw_id, p.raw_ordinal
),
ids as (
    select f.request_id, json_extract_string(f.headers, '$."' || h.header || '"') as client_request_id
    from firsts f
    join headings n on n.side = 'request' and f.heading = n.heading
    join table_request_ids h on h.side = 'request' and n.name = h.header
    where json_extract_string(f.headers, '$."' || h.header || '"') is not null
    qualify row_number() over (partition by f.request_id order by h.priority) = 1
),
model_primaries as (
    select api, channel from book_model_channel where position = 0
),
facts as (
    select
        f.request_id, f.created_at, f.period,
        c.user_id, c.project, c.api_key_id, c.api_key_label, c.run_id, c.tags,
        f.endpoint,
        coalesce(b.public, f.api_model) as public_model,
        f.api_model,
        t.sent_model as upstream_model, t.served_model,
        h.route,
        case
            when f.door = 'gateway' and mp.channel is not null then mp.channel
            when n.attempt_count > 1 then pr.channel
            else t.channel
        end as primary_channel,
        bk.channel as backup_channel,
        case when t.is_served then t.channel end as served_channel,
        coalesce(n.attempt_count, 0) as attempt_count,
        coalesce(n.retry_count, 0) as retry_count,
        coalesce(n.fallback_count, 0) as fallback_count,
        case
            when l.outcome is null or l.outcome = 'unknown' then 'unknown'
            when l.outcome in ('ok', 'client_gone') then l.outcome
            when l.outcome = 'rejected_by_proxy' then 'rejected'
            else 'failed'
        end as status,
        coalesce(l.outcome, 'unknown') as outcome,
        cast(coalesce(l.own_status, l.http_status) as integer) as http_status,
        u.input_tokens, u.cached_input_tokens, u.cache_write_tokens, u.output_tokens, u.reasoning_tokens,
        coalesce(u.usage_source, 'none') as usage_source,
        cast(up.input_unit_price * cast(1000000 as decimal(18,0)) as decimal(38,12)) as input_price_per_mtok,
        cast(up.output_unit_price * cast(1000000 as decimal(18,0)) as decimal(38,12)) as output_price_per_mtok,
        case when k.request_id is null then cast(0 as decimal(38,12)) else k.list_charge end as list_charge,
        case when k.request_id is null then cast(0 as decimal(38,12)) else k.final_charge end as final_charge,
        v.vendor_charge,
        st.currency,
        h.bucket as balance_bucket,
        c.wallet,
        pn.failed_request_policy,
        e.entry_id as wallet_entry_id,
        a.adjustment_amount, a.adjustment_reason,
        -- where the clock went back meanwhile, a duration is not known
        case when n.last_closed_at >= f.created_at then date_diff('microsecond', f.created_at, n.last_closed_at) // 1000 end as latency_ms,
        case when t.is_served and t.first_token_at >= f.created_at then date_diff('microsecond', f.created_at, t.first_token_at) // 1000 end as first_token_ms,
        case when n.fallback_count > 0 and cs.opened_at >= n.first_opened_at then date_diff('microsecond', n.first_opened_at, cs.opened_at) // 1000 end as fallback_latency_ms,
        i.client_request_id, att.upstream_request_id, f.door,
        case when lk.request_id is null then cast(0 as decimal(38,12)) else lk.leakage end as leakage
    from firsts f
    cross join setting st
    join callers c on f.request_id = c.request_id
    join lasts l on f.request_id = l.request_id
    left join counted n on f.request_id = n.request_id
    left join costs k on f.request_id = k.request_id
    left join leaks lk on f.request_id = lk.request_id
    left join told t on f.request_id = t.request_id
    left join book_channel h on t.channel = h.name
    left join channel_starts cs on f.request_id = cs.request_id
    left join usage_totals u on t.raw_id = u.raw_id and t.raw_ordinal = u.raw_ordinal
    left join unit_prices up on t.raw_id = up.raw_id and t.raw_ordinal = up.raw_ordinal
    left join attempts att on t.request_id = att.request_id and t.ordinal = att.ordinal
    left join vendor_charges v on f.request_id = v.request_id
    left join primaries pr on f.request_id = pr.request_id
    left join backups bk on f.request_id = bk.request_id
    left join policy_names pn on f.request_id = pn.request_id
    left join entries e on f.request_id = e.request_id
    left join adjustments a on f.request_id = a.request_id
    left join ids i on f.request_id = i.request_id
    left join book_model b on f.api_model = b.api
    left join model_primaries mp on f.api_model = mp.api
),
compared as (
    select
        *,
        case when status = 'ok' then cast(list_charge - final_charge as decimal(38,12)) end as savings,
        cast(vendor_charge - final_charge as decimal(38,12)) as vendor_difference
    from facts
)
select
    *,
    sha256(concat(
        'request_id', coalesce('=' || request_id, ''), chr(10),
        'created_at', coalesce('=' || strftime(created_at, '%Y-%m-%dT%H:%M:%S.%fZ'), ''), chr(10),
        'period', coalesce('=' || period, ''), chr(10),
        'user_id', coalesce('=' || user_id, ''), chr(10),
        'project', coalesce('=' || project, ''), chr(10),
        'api_key_id', coalesce('=' || api_key_id, ''), chr(10),
        'api_key_label', coalesce('=' || api_key_label, ''), chr(10),
        'run_id', coalesce('=' || run_id, ''), chr(10),
        'tags', coalesce('=' || tags, ''), chr(10),
        'endpoint', coalesce('=' || endpoint, ''), chr(10),
        'public_model', coalesce('=' || public_model, ''), chr(10),
        'api_model', coalesce('=' || api_model, ''), chr(10),
        'upstream_model', coalesce('=' || upstream_model, ''), chr(10),
        'served_model', coalesce('=' || served_model, ''), chr(10),
        'route', coalesce('=' || route, ''), chr(10),
        'primary_channel', coalesce('=' || primary_channel, ''), chr(10),
        'backup_channel', coalesce('=' || backup_channel, ''), chr(10),
        'served_channel', coalesce('=' || served_channel, ''), chr(10),
        'attempt_count', coalesce('=' || cast(attempt_count as varchar), ''), chr(10),
        'retry_count', coalesce('=' || cast(retry_count as varchar), ''), chr(10),
        'fallback_count', coalesce('=' || cast(fallback_count as varchar), ''), chr(10),
        'status', coalesce('=' || status, ''), chr(10),
        'outcome', coalesce('=' || outcome, ''), chr(10),
        'http_status', coalesce('=' || cast(http_status as varchar), ''), chr(10),
        'input_tokens', coalesce('=' || cast(input_tokens as varchar), ''), chr(10),
        'cached_input_tokens', coalesce('=' || cast(cached_input_tokens as varchar), ''), chr(10),
        'cache_write_tokens', coalesce('=' || cast(cache_write_tokens as varchar), ''), chr(10),
        'output_tokens', coalesce('=' || cast(output_tokens as varchar), ''), chr(10),
        'reasoning_tokens', coalesce('=' || cast(reasoning_tokens as varchar), ''), chr(10),
        'usage_source', coalesce('=' || usage_source, ''), chr(10),
        'input_price_per_mtok', coalesce('=' || cast(input_price_per_mtok as varchar), ''), chr(10),
        'output_price_per_mtok', coalesce('=' || cast(output_price_per_mtok as varchar), ''), chr(10),
        'list_charge', coalesce('=' || cast(list_charge as varchar), ''), chr(10),
        'final_charge', coalesce('=' || cast(final_charge as varchar), ''), chr(10),
        'vendor_charge', coalesce('=' || cast(vendor_charge as varchar), ''), chr(10),
        'currency', coalesce('=' || currency, ''), chr(10),
        'balance_bucket', coalesce('=' || balance_bucket, ''), chr(10),
        'wallet', coalesce('=' || wallet, ''), chr(10),
        'failed_request_policy', coalesce('=' || failed_request_policy, ''), chr(10),
        'wallet_entry_id', coalesce('=' || wallet_entry_id, ''), chr(10),
        'adjustment_amount', coalesce('=' || cast(adjustment_amount as varchar), ''), chr(10),
        'adjustment_reason', coalesce('=' || adjustment_reason, ''), chr(10),
        'latency_ms', coalesce('=' || cast(latency_ms as varchar), ''), chr(10),
        'first_token_ms', coalesce('=' || cast(first_token_ms as varchar), ''), chr(10),
        'fallback_latency_ms', coalesce('=' || cast(fallback_latency_ms as varchar), ''), chr(10),
        'client_request_id', coalesce('=' || client_request_id, ''), chr(10),
        'upstream_request_id', coalesce('=' || upstream_request_id, ''), chr(10),
        'door', coalesce('=' || door, ''), chr(10),
        'savings', coalesce('=' || cast(savings as varchar), ''), chr(10),
        'leakage', coalesce('=' || cast(leakage as varchar), ''), chr(10),
        'vendor_difference', coalesce('=' || cast(vendor_difference as varchar), ''), chr(10)
    )) as receipt_digest
from compared
