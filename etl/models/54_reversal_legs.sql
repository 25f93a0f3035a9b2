-- One row is one leg of a reversal: a leg of the transaction that it names, negated.
-- check: amount is not null and account is not null and reverses is not null
-- check: unique entry_id
with legs as (
    select transaction_id, account, amount, currency, request_id, wallet, bucket from charge_legs
    union all
    select transaction_id, account, amount, currency, request_id, wallet, bucket from admin_legs
    union all
    select transaction_id, account, amount, currency, request_id, wallet, bucket from closed_leg
),
reversal_legs as (
    select
        r.transaction_id,
        'we_' || substr(sha256(r.transaction_id || chr(31) || l.account || chr(31) || l.currency), 1, 32) as entry_id,
        greatest(least(r.at, p.posts_last), p.posts_from) as posted_at,
        r.at as service_at, p.period, l.account, cast(-l.amount as decimal(38,12)) as amount, l.currency, 'reversal' as kind,
        l.request_id,
        case when p.service_period = p.period then r.reference else 'late:' || p.service_period || ':' || r.reference end as reference,
        r.actor, r.reason, r.reverses, l.wallet, l.bucket
    from legs l
    join reversals r on l.transaction_id = r.reverses
    join book_period p on r.at >= p.starts_at and r.at < p.ends_at
    where r.fault is null
)
select * from reversal_legs
