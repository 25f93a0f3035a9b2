-- One row is one balance that a vendor showed at an instant, beside ours at that instant. Ours is null where the instant lies in a
-- closed month, for what was booked there by then is not read again.
-- check: vendor_balance is not null and difference is not distinct from cast(vendor_balance - our_balance as decimal(38,12))
with shown as (
    select
        e.event_id, e.at, e.wallet, e.bucket, e.currency, e.amount as vendor_balance, p.period, p.service_period = p.period as is_open
    from admin_events e join book_period p on e.at >= p.starts_at and e.at < p.ends_at
    where e.event = 'wallet_snapshot' and e.amount is not null and e.wallet is not null and e.bucket is not null
),
movements as (
    select wallet, bucket, currency, posted_at, amount from journal where wallet is not null
    union all
    select wallet, bucket, currency, timestamp '0001-01-01 00:00:00' as posted_at, balance as amount from opening
),
booked as (
    select s.event_id, sum(m.amount) as balance
    from shown s
    join movements m on s.wallet = m.wallet and s.bucket = m.bucket and s.currency = m.currency and m.posted_at <= s.at
    group by s.event_id
),
compared as (
    select
        s.event_id, s.at, s.period, s.wallet, s.bucket, s.currency, s.vendor_balance,
        case when s.is_open then cast(coalesce(b.balance, 0) as decimal(38,12)) end as our_balance
    from shown s left join booked b on s.event_id = b.event_id
)
select *, cast(vendor_balance - our_balance as decimal(38,12)) as difference from compared
