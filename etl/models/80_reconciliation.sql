-- One row is one figure of a vendor beside ours: a charge that stood in its reply, or a recorded balance of a wallet. The rows of
-- stored bills (source `bill`) are added by etl/reconcile/step.py once the closed months are back.
-- check: class in ('matched', 'mismatch', 'unknown') and vendor_amount is not null
with replies as (
    select
        l.period, 'reply' as source, a.request_id || '/' || a.ordinal as subject, a.request_id, a.channel,
        a.charged as our_amount, a.vendor_charge as vendor_amount
    from attempts a join ledger_facts l on a.request_id = l.request_id
    where a.vendor_charge is not null
),
snapshots as (
    select
        period, 'snapshot' as source,
        wallet || ':' || bucket || ' at ' || strftime("at", '%Y-%m-%dT%H:%M:%S.%fZ') || ' (' || event_id || ')' as subject,
        cast(null as varchar) as request_id, cast(null as varchar) as channel,
        our_balance as our_amount, vendor_balance as vendor_amount
    from wallet_snapshots
),
figures as (
    select * from replies
    union all
    select * from snapshots
)
select
    f.period, f.source, f.subject, f.request_id, f.channel, f.our_amount, f.vendor_amount,
    cast(f.vendor_amount - f.our_amount as decimal(38,12)) as difference,
    case when f.our_amount is null then 'unknown' when f.our_amount = f.vendor_amount then 'matched' else 'mismatch' end as class,
    s.currency, cast(null as varchar) as vendor, cast(null as varchar) as match_id, cast(null as varchar) as grain,
    cast(null as bigint) as bill_lines, cast(null as bigint) as requests, cast(null as varchar) as step, cast(null as varchar) as reason,
    cast(null as boolean) as money_is_ours
from figures f cross join setting s
