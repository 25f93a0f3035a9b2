-- One row is one open month that has a request or an entry: its bounds, its totals and what stands against closing it.
-- check: requests = charged_requests + free_requests + suspense_requests
with per_request as (
    select
        period, final_charge,
        case when final_charge is null then 'suspense' when wallet_entry_id is not null then 'charged' else 'free' end as disposition
    from ledger where period in (select period from book_period)
),
requests as (
    select
        period,
        count(*) as requests,
        sum(case when disposition = 'charged' then 1 else 0 end) as charged_requests,
        sum(case when disposition = 'free' then 1 else 0 end) as free_requests,
        sum(case when disposition = 'suspense' then 1 else 0 end) as suspense_requests,
        sum(final_charge) as charged
    from per_request group by period
),
suspense as (
    select period, sum(amount) as amount from journal where account like 'suspense:%' and period in (select period from book_period) group by period
),
entries as (
    select distinct period from journal where period in (select period from book_period)
),
gaps as (
    select period, count(*) as rows from unpriced where period in (select period from book_period) group by period
),
blockers as (
    select period, count(*) as rows from data_quality where blocks_close group by period
)
select
    p.period, p.starts_at, p.ends_at, 'open' as status,
    cast(coalesce(r.requests, 0) as bigint) as requests,
    cast(coalesce(r.charged_requests, 0) as bigint) as charged_requests,
    cast(coalesce(r.free_requests, 0) as bigint) as free_requests,
    cast(coalesce(r.suspense_requests, 0) as bigint) as suspense_requests,
    cast(case when r.requests is null then 0 else r.charged end as decimal(38,12)) as charged,
    cast(coalesce(s.amount, 0) as decimal(38,12)) as suspense,
    cast(coalesce(g.rows, 0) as bigint) as unpriced,
    cast(coalesce(b.rows, 0) as bigint) as blockers,
    t.currency, cast(null as varchar) as seal_hash
from book_period p
cross join setting t
left join requests r on p.period = r.period
left join suspense s on p.period = s.period
left join entries e on p.period = e.period
left join gaps g on p.period = g.period
left join blockers b on p.period = b.period
where p.service_period = p.period and (r.period is not null or e.period is not null or b.period is not null)
