-- One row is one open month, channel and upstream model: how the route did. A percentile is the smallest measured value that at least
-- that share of the values do not exceed (nearest rank), found by counting how often each value was measured, without division.
-- check: ok + failed >= 1
with timed as (
    select
        l.period, a.channel, a.sent_model as model, a.request_id, a.outcome, a.reason, a.charged,
        case when a.status = 'ok' and a.ended_at >= a.started_at then date_diff('microsecond', a.started_at, a.ended_at) // 1000 end as took_ms,
        case when a.status = 'ok' and a.first_token_at >= a.started_at then date_diff('microsecond', a.started_at, a.first_token_at) // 1000 end as first_token_ms,
        case when a.status = 'ok' then l.fallback_latency_ms end as added_ms
    from attempts a
    join ledger l on a.request_id = l.request_id
    where l.period in (select period from touched where is_open)
),
counts as (
    select
        period, channel, model,
        cast(count(distinct request_id) as bigint) as requests,
        cast(sum(case when outcome = 'ok' then 1 else 0 end) as bigint) as ok,
        cast(sum(case when outcome <> 'ok' then 1 else 0 end) as bigint) as failed,
        cast(sum(case when reason in ('client_retry', 'retry', 'without_usage_option') then 1 else 0 end) as bigint) as retries,
        cast(sum(case when reason = 'fallback' then 1 else 0 end) as bigint) as fallbacks,
        cast(case
            when sum(case when outcome <> 'ok' then 1 else 0 end) = 0 then 0 else sum(case when outcome <> 'ok' then charged end)
        end as decimal(38,12)) as failed_cost
    from timed group by period, channel, model
),
measured as (
    select period, channel, model, 'took' as what, took_ms as ms from timed where took_ms is not null
    union all
    select period, channel, model, 'first_token' as what, first_token_ms as ms from timed where first_token_ms is not null
    union all
    select period, channel, model, 'added' as what, added_ms as ms from timed where added_ms is not null
),
counted as (
    select period, channel, model, what, ms, count(*) as times from measured group by period, channel, model, what, ms
),
ranked as (
    select
        *,
        sum(times) over (partition by period, channel, model, what order by ms) as up_to,
        sum(times) over (partition by period, channel, model, what) as of_all
    from counted
),
percentiles as (
    select
        period, channel, model,
        min(case when what = 'took' and up_to * 100 >= of_all * 50 then ms end) as p50_ms,
        min(case when what = 'took' and up_to * 100 >= of_all * 95 then ms end) as p95_ms,
        min(case when what = 'first_token' and up_to * 100 >= of_all * 50 then ms end) as first_token_p50_ms,
        min(case when what = 'added' and up_to * 100 >= of_all * 50 then ms end) as fallback_added_ms
    from ranked group by period, channel, model
)
select
    c.period, c.channel, c.model, c.requests, c.ok, c.failed, c.retries, c.fallbacks,
    p.p50_ms, p.p95_ms, p.first_token_p50_ms, p.fallback_added_ms, c.failed_cost
from counts c
left join percentiles p on c.period = p.period and c.channel is not distinct from p.channel and c.model is not distinct from p.model
