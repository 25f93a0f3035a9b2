-- One row is one leg of an entry that a person made. A top-up comes from funding and, as far as it was given, from bonus; an
-- adjustment of either sign, and a refund into the wallet, from their own accounts; an expiry takes out of the wallet.
-- check: amount is not null and account is not null
-- check: select entry_id from admin_legs group by entry_id having count(*) > 1
with signs as (
    select 'wallet_topup' as event, 'topup' as kind, 'funding' as counter, 1 as sign
    union all select 'wallet_adjust', 'adjustment', 'adjustment', 1
    union all select 'wallet_refund', 'refund', 'refunded', 1
    union all select 'wallet_expire', 'expiry', 'expired', -1
),
named as (
    select about_id, min(request_id) as request_id
    from (
        select e.about_id, m.request_id from admin_events e join members m on e.about_id = m.raw_id
    ) group by about_id
),
booked as (
    select
        e.*, s.kind, s.counter, p.period, n.request_id as logical_id,
        cast(case when s.sign = 1 then e.amount else -e.amount end as decimal(38,12)) as gain,
        cast(case when e.event = 'wallet_topup' then e.bonus else 0 end as decimal(38,12)) as given
    from admin_events e
    join signs s on e.event = s.event
    join book_period p on e.at >= p.starts_at and e.at < p.ends_at
    left join named n on e.about_id = n.about_id
    where e.fault is null
),
legs as (
    select *, 'wallet:' || wallet || ':' || bucket as account, gain as leg_amount, true as is_wallet from booked
    union all
    select *, counter || ':' || wallet || ':' || bucket as account, cast(given - gain as decimal(38,12)) as leg_amount, false as is_wallet from booked
    union all
    select *, 'bonus:' || wallet || ':' || bucket as account, cast(-given as decimal(38,12)) as leg_amount, false as is_wallet from booked where given > 0
),
admin_legs as (
    select
        transaction_id,
        'we_' || substr(sha256(transaction_id || chr(31) || account || chr(31) || currency), 1, 32) as entry_id,
        "at" as posted_at, period, account, leg_amount as amount, currency, kind,
        coalesce(logical_id, about_id) as request_id, reference, actor, reason,
        case when is_wallet then wallet end as wallet,
        case when is_wallet then bucket end as bucket
    from legs
)
select * from admin_legs
