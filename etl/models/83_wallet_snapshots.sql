-- One row is one balance that a vendor showed at an instant, beside ours at that instant. Ours is null where the instant lies in a
-- closed month, for what was booked there by then is not read again.
-- check: vendor_balance is not null and difference is not distinct from cast(vendor_balance - our_balance as decimal(38,12))
with shown as (
    select
        e.event_id, e.at, e.wallet, e.bucket, e.currency, e.amount as vendor_balance, p.period, p.service_period = p.period as is_open
    from admin_events e join book_period p on e.at >= p.starts_at and e.at < p.ends_at
    where e.event = 'wallet_snapshot' and e.amount is not null and e.wallet is not null and e.bucket is not null
),
balances as (
    select wallet, bucket, currency, posted_at, entry_id, balance_after from wallet_statement
    union all
    select wallet, bucket, currency, posted_at, entry_id, balance_after from earlier_statement
    union all
    select wallet, bucket, currency, timestamp '0001-01-01 00:00:00' as posted_at, '' as entry_id, balance from first_opening
),
booked as (
    select s.event_id, b.balance_after as balance
    from shown s
    join balances b on s.wallet = b.wallet and s.bucket = b.bucket and s.currency = b.currency and b.posted_at <= s.at
    qualify row_number() over (partition by s.event_id order by b.posted_at desc, b.entry_id desc) = 1
),
compared as (
    select
        s.event_id, s.at, s.period, s.wallet, s.bucket, s.currency, s.vendor_balance,
        case when s.is_open then cast(coalesce(b.balance, 0) as decimal(38,12)) end as our_balance
    from shown s left join booked b on s.event_id = b.event_id
)
select *, cast(vendor_balance - our_balance as decimal(38,12)) as difference from compared
