-- One row is one leg of the transaction of one attempt: from the wallet's bucket to the expense of its channel, or to a suspense
-- account with the part that is known; what a vendor's rounding added or took has an account of its own. Each attempt has its own
-- transaction, so that no two buckets meet in one. It is posted inside the month it is booked in: what came late for a closed
-- month at the first instant of the first open one, with a reference that names the month it belongs to; what began after the
-- month of its request at that month's last instant.
-- check: amount is not null and account is not null
-- check: select l.entry_id from charge_legs l join book_period p on l.period = p.period and p.service_period = p.period where l.posted_at < p.starts_at or l.posted_at >= p.ends_at
-- check: unique entry_id
with posted as (
    select
        a.request_id, a.raw_id, a.raw_ordinal, a.ordinal, p.period, s.opened_at as service_at,
        greatest(least(s.opened_at, p.posts_last), p.posts_from) as posted_at,
        case when p.service_period = p.period then '' else 'late:' || p.service_period || ':' end as late,
        c.wallet, coalesce(a.bucket, 'unknown') as bucket, a.channel, a.known as amount, a.rounding,
        case a.disposition when 'charged' then 'charge' else 'suspense' end as kind,
        case
            when a.disposition = 'charged' then 'usage:' || a.channel
            when a.rule = 'unknown' then 'suspense:unknown'
            else 'suspense:unpriced'
        end as counter_account,
        a.reason,
        'tx_' || substr(sha256('charge' || chr(31) || a.raw_id || chr(31) || a.raw_ordinal), 1, 32) as transaction_id
    from attempt_charges a
    join steps s on a.raw_id = s.raw_id and a.raw_ordinal = s.raw_ordinal
    join callers c on a.request_id = c.request_id
    join requests_created r on a.request_id = r.request_id
    join book_period p on r.created_at >= p.starts_at and r.created_at < p.ends_at
    where a.disposition in ('charged', 'suspense')
),
legs as (
    select *, 'wallet:' || wallet || ':' || bucket as account, cast(-amount as decimal(38,12)) as leg_amount, true as is_wallet from posted
    union all
    select *, counter_account as account, cast(amount - rounding as decimal(38,12)) as leg_amount, false as is_wallet from posted
    union all
    select *, 'rounding:' || channel as account, rounding as leg_amount, false as is_wallet from posted where rounding <> 0
),
charge_legs as (
    select
        l.transaction_id,
        'we_' || substr(sha256(l.transaction_id || chr(31) || l.account || chr(31) || t.currency), 1, 32) as entry_id,
        l.posted_at, l.service_at, l.period, l.account, l.leg_amount as amount, t.currency, l.kind, l.request_id,
        l.late || l.raw_id || '/' || l.raw_ordinal as reference,
        cast(null as varchar) as actor, l.reason,
        case when l.is_wallet then l.wallet end as wallet,
        case when l.is_wallet then l.bucket end as bucket,
        l.raw_id, l.raw_ordinal
    from legs l cross join setting t
)
select * from charge_legs
