-- One row is one failed attempt: the policy row that decided what it costs, and three figures side by side: what the contract makes
-- due (worked out from the policy and the rates), what was booked (read back from the journal), what the vendor said it charged.
-- check: outcome is not null
-- check: contract_amount is not distinct from booked_amount and (contract_amount is null or booked_bucket is not null or contract_amount = 0)
with booked as (
    select
        raw_id, raw_ordinal,
        cast(-sum(amount) filter (where kind = 'charge') as decimal(38,12)) as amount,
        bool_or(kind = 'suspense') as is_suspended,
        min(bucket) as bucket
    from charge_legs where wallet is not null group by raw_id, raw_ordinal
)
select
    p.request_id, p.ordinal as attempt_ordinal, p.raw_id as raw_request_id, p.channel, p.outcome, p.policy_id, p.policy, p.charge,
    cast(p.flat_amount as decimal(38,12)) as flat_amount, p.effective_from,
    c.charge as contract_amount,
    case when not coalesce(b.is_suspended, false) then coalesce(b.amount, cast(0 as decimal(38,12))) end as booked_amount,
    b.bucket as booked_bucket,
    u.vendor_charge as vendor_amount
from policies p
join attempt_charges c on p.raw_id = c.raw_id and p.raw_ordinal = c.raw_ordinal
left join booked b on p.raw_id = b.raw_id and p.raw_ordinal = b.raw_ordinal
left join usage_totals u on p.raw_id = u.raw_id and p.raw_ordinal = u.raw_ordinal
