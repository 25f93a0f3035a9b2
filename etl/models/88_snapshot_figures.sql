-- One row is one recorded balance of a wallet beside ours at that instant, as a row of `reconciliation`.
-- check: class in ('matched', 'mismatch', 'unknown') and vendor_amount is not null
select
    w.period, 'snapshot' as source,
    w.wallet || ':' || w.bucket || ' at ' || strftime(w.at, '%Y-%m-%dT%H:%M:%S.%fZ') || ' (' || w.event_id || ')' as subject,
    cast(null as varchar) as request_id, cast(null as varchar) as channel,
    w.our_balance as our_amount, w.vendor_balance as vendor_amount, w.difference,
    case when w.our_balance is null then 'unknown' when w.our_balance = w.vendor_balance then 'matched' else 'mismatch' end as class,
    s.currency
from wallet_snapshots w cross join setting s
