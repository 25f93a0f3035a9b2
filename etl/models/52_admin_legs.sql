-- One row is one leg of an entry that a person made. A top-up comes from funding and, as far as it was given, from bonus; an
-- adjustment of either sign, and a refund into the wallet, from their own accounts; an expiry takes out of the wallet. A transfer
-- has both its wallets in one transaction and no other account.
-- check: amount is not null and account is not null
-- check: unique entry_id
with signs as (
    select 'wallet_topup' as event, 'topup' as kind, 'funding' as counter, 1 as sign
    union all select 'wallet_adjust', 'adjustment', 'adjustment', 1
    union all select 'wallet_refund', 'refund', 'refunded', 1
    union all select 'wallet_expire', 'expiry', 'expired', -1
    union all select 'wallet_transfer', 'transfer', null, -1
),
booked as (
    select
        e.*, s.kind, s.counter, p.period,
        greatest(least(e.at, p.posts_last), p.posts_from) as posted_at,
        case when p.service_period = p.period then e.reference else 'late:' || p.service_period || ':' || coalesce(e.reference, '') end as stated_reference,
        cast(case when s.sign = 1 then e.amount else -e.amount end as decimal(38,12)) as gain,
        cast(case when e.event = 'wallet_topup' then e.bonus else 0 end as decimal(38,12)) as given
    from admin_events e
    join signs s on e.event = s.event
    join book_period p on e.at >= p.starts_at and e.at < p.ends_at
    where e.fault is null
),
legs as (
    select *, 'wallet:' || wallet || ':' || bucket as account, gain as leg_amount, wallet as leg_wallet, bucket as leg_bucket from booked
    union all
    select
        *, 'wallet:' || to_wallet || ':' || to_bucket as account, cast(-gain as decimal(38,12)) as leg_amount,
        to_wallet as leg_wallet, to_bucket as leg_bucket
    from booked where event = 'wallet_transfer'
    union all
    select
        *, counter || ':' || wallet || ':' || bucket as account, cast(given - gain as decimal(38,12)) as leg_amount,
        cast(null as varchar) as leg_wallet, cast(null as varchar) as leg_bucket
    from booked where event <> 'wallet_transfer'
    union all
    select
        *, 'bonus:' || wallet || ':' || bucket as account, cast(-given as decimal(38,12)) as leg_amount,
        cast(null as varchar) as leg_wallet, cast(null as varchar) as leg_bucket
    from booked where given > 0
),
admin_legs as (
    select
        transaction_id,
        'we_' || substr(sha256(transaction_id || chr(31) || account || chr(31) || currency), 1, 32) as entry_id,
        posted_at, "at" as service_at, period, account, leg_amount as amount, currency, kind,
        coalesce(logical_id, about_id) as request_id, stated_reference as reference, actor, reason,
        leg_wallet as wallet, leg_bucket as bucket
    from legs
)
select * from admin_legs
