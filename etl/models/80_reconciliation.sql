-- One row is one figure of a vendor beside ours: a charge that stood in its reply, or a recorded balance of a wallet.
-- check: class in ('matched', 'mismatch', 'unknown') and vendor_amount is not null
with replies as (
    select
        l.period, 'reply' as source, a.request_id || '/' || a.ordinal as subject, a.request_id, a.channel,
        a.charged as our_amount, a.vendor_charge as vendor_amount
    from attempts a join ledger_facts l on a.request_id = l.request_id
    where a.vendor_charge is not null
),
snapshot_events as (
    select e.event_id, e.at, e.wallet, e.bucket, e.currency, e.amount, p.period
    from admin_events e join book_period p on e.at >= p.starts_at and e.at < p.ends_at
    where e.event = 'wallet_snapshot' and e.amount is not null and e.wallet is not null and e.bucket is not null
),
booked as (
    select s.event_id, sum(j.amount) as balance
    from snapshot_events s
    join (
        select wallet, bucket, currency, posted_at, amount from journal where wallet is not null
        union all
        select wallet, bucket, currency, timestamp '0001-01-01 00:00:00', balance from opening
    ) j on s.wallet = j.wallet and s.bucket = j.bucket and s.currency = j.currency and j.posted_at <= s.at
    group by s.event_id
),
snapshots as (
    select
        s.period, 'snapshot' as source,
        s.wallet || ':' || s.bucket || ' at ' || strftime(s.at, '%Y-%m-%dT%H:%M:%S.%fZ') || ' (' || s.event_id || ')' as subject,
        cast(null as varchar) as request_id, cast(null as varchar) as channel,
        cast(coalesce(b.balance, 0) as decimal(38,12)) as our_amount, s.amount as vendor_amount
    from snapshot_events s left join booked b on s.event_id = b.event_id
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
    s.currency
from figures f cross join setting s
