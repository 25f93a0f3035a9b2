-- One row is one charge that stood in a vendor's reply, beside ours. The rows of recorded balances (snapshot_figures) and of stored
-- bills (source `bill`) join them in the published table.
-- check: class in ('matched', 'mismatch', 'unknown') and vendor_amount is not null
select
    r.period, 'reply' as source, a.request_id || '/' || a.ordinal as subject, a.request_id, a.channel,
    a.charged as our_amount, a.vendor_charge as vendor_amount,
    cast(a.vendor_charge - a.charged as decimal(38,12)) as difference,
    case when a.charged is null then 'unknown' when a.charged = a.vendor_charge then 'matched' else 'mismatch' end as class,
    s.currency, cast(null as varchar) as vendor, cast(null as varchar) as match_id, cast(null as varchar) as grain,
    cast(null as bigint) as bill_lines, cast(null as bigint) as requests, cast(null as varchar) as step, cast(null as varchar) as reason,
    cast(null as boolean) as money_is_ours
from attempts a join requests_created r on a.request_id = r.request_id cross join setting s
where a.vendor_charge is not null
