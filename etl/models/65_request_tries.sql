-- One row is one logical request of which tries are recorded: how many, how the last of them ended, and what stands for it: facts,
-- tokens, prices and wallet entry of the try that answered ok, else of the last. Most requests have one try, and need no sum.
-- check: attempt_count >= 0 and retry_count + fallback_count <= attempt_count
-- check: unique request_id
with standing as (
    select
        request_id, raw_id, raw_ordinal, ordinal, channel, sent_model, served_model, first_token_at, outcome = 'ok' as is_served
    from steps where stands
),
several as (
    select request_id, raw_id, raw_ordinal, ordinal, channel, role, reason, outcome, http_status, own_status, opened_at, closed_at, stands, is_last, place_from_end
    from steps where not is_only
),
channel_starts as (
    select s.request_id, min(s.opened_at) as opened_at
    from several s join standing t on s.request_id = t.request_id and s.channel = t.channel
    where s.ordinal > 0 group by s.request_id
),
-- a backup is tried without a move to it where the primary's route is closed to the key, and by the turns of a connection that fell back
backups as (
    select request_id, channel from several where ordinal > 0 and role = 'backup'
    qualify row_number() over (partition by request_id order by ordinal desc) = 1
),
counted as (
    select
        request_id,
        cast(sum(case when ordinal > 0 then 1 else 0 end) as integer) as attempt_count,
        cast(sum(case when reason in ('client_retry', 'retry', 'without_usage_option') then 1 else 0 end) as integer) as retry_count,
        cast(sum(case when reason = 'fallback' then 1 else 0 end) as integer) as fallback_count,
        min(case when ordinal > 0 then opened_at end) as first_opened_at,
        max(closed_at) as last_closed_at,
        max(case when ordinal = 1 then channel end) as first_channel,
        -- the last recorded request decides, also where nothing of its tries is recorded
        max(case when is_last and place_from_end = 1 then outcome end) as last_outcome,
        max(case when is_last and place_from_end = 1 then coalesce(own_status, http_status) end) as last_status
    from several group by request_id
),
tries as (
    select
        request_id, cast(case when stands then 1 else 0 end as integer) as attempt_count, cast(0 as integer) as retry_count,
        cast(0 as integer) as fallback_count, case when stands then opened_at end as first_opened_at, closed_at as last_closed_at,
        case when stands then channel end as first_channel, case when stands and role = 'backup' then channel end as backup_channel,
        cast(null as timestamp) as channel_opened_at,
        case when is_last then outcome end as last_outcome, case when is_last then coalesce(own_status, http_status) end as last_status,
        case when stands then raw_id end as raw_id, case when stands then raw_ordinal end as raw_ordinal,
        case when stands then ordinal end as ordinal, case when stands then channel end as channel,
        case when stands then sent_model end as sent_model, case when stands then served_model end as served_model,
        case when stands then first_token_at end as first_token_at, stands and outcome = 'ok' as is_served
    from steps where is_only
    union all
    select
        c.request_id, c.attempt_count, c.retry_count, c.fallback_count, c.first_opened_at, c.last_closed_at, c.first_channel,
        b.channel, a.opened_at, c.last_outcome, c.last_status,
        t.raw_id, t.raw_ordinal, t.ordinal, t.channel, t.sent_model, t.served_model, t.first_token_at, coalesce(t.is_served, false)
    from counted c
    left join standing t on c.request_id = t.request_id
    left join backups b on c.request_id = b.request_id
    left join channel_starts a on c.request_id = a.request_id
),
-- where the standing try has no entry: that of another
other_entries as (
    select l.request_id, l.entry_id
    from charge_legs l join several s on l.raw_id = s.raw_id and l.raw_ordinal = s.raw_ordinal
    where l.wallet is not null and not s.stands
    qualify row_number() over (partition by l.request_id order by case when s.outcome = 'ok' then 0 else 1 end, s.ordinal desc) = 1
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
)
select
    t.*, u.input_tokens, u.cached_input_tokens, u.cache_write_tokens, u.output_tokens, u.reasoning_tokens, u.usage_source,
    p.input_unit_price, p.output_unit_price, a.upstream_request_id, coalesce(l.entry_id, o.entry_id) as entry_id
from tries t
left join usage_totals u on t.raw_id = u.raw_id and t.raw_ordinal = u.raw_ordinal
left join unit_prices p on t.raw_id = p.raw_id and t.raw_ordinal = p.raw_ordinal
left join attempts a on t.request_id = a.request_id and t.ordinal = a.ordinal
left join charge_legs l on t.raw_id = l.raw_id and t.raw_ordinal = l.raw_ordinal and l.wallet is not null
left join other_entries o on t.request_id = o.request_id
