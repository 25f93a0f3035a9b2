-- One row is one request that did not end ok: the ledger's facts, the policy that decided, and what it charged.
-- check: status is distinct from 'ok'
-- check: select count(*) from failed_requests having count(*) is distinct from (select count(*) from ledger where status <> 'ok')
with rules as (
    select request_id, string_agg(coalesce(charge, 'no policy'), '; ' order by raw_id, raw_ordinal) as policy_rule
    from policies group by request_id
),
failed_charges as (
    select
        c.request_id,
        case when sum(case when c.charge is null then 1 else 0 end) = 0 then cast(sum(c.charge) as decimal(38,12)) end as policy_charged
    from attempt_charges c where c.outcome <> 'ok' group by c.request_id
),
errors as (
    select request_id, error from steps where place_from_end = 1
)
select l.*, r.policy_rule, f.policy_charged, e.error
from ledger l
left join rules r on l.request_id = r.request_id
left join failed_charges f on l.request_id = f.request_id
left join errors e on l.request_id = e.request_id
where l.status <> 'ok'
