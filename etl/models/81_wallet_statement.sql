-- One row is one journal leg on a wallet, with the bucket's balance after it and what of that was held at that instant. Legs before
-- the first that changed stand in the published ledger already; `opening` is the balance that they left.
-- check: balance_after is not null and held_after >= 0
-- check: select count(*) from wallet_statement having count(*) is distinct from (select count(*) from wallet_legs)
with held as (
    select l.entry_id, sum(h.amount) as amount
    from wallet_legs l
    join wallet_holds h
        on l.wallet = h.wallet and l.bucket = h.bucket and l.currency = h.currency
        and h.placed_at <= l.posted_at and l.posted_at < h.ends_at
    group by l.entry_id
)
select
    l.entry_id, l.posted_at, l.wallet, l.bucket, l.kind, l.amount,
    cast(coalesce(o.balance, 0) + sum(l.amount) over (
        partition by l.wallet, l.bucket, l.currency order by l.posted_at, l.entry_id rows between unbounded preceding and current row
    ) as decimal(38,12)) as balance_after,
    l.request_id, l.actor, l.reason,
    cast(coalesce(h.amount, 0) as decimal(38,12)) as held_after,
    l.currency, l.period
from wallet_legs l
left join opening o on l.wallet = o.wallet and l.bucket = o.bucket and l.currency = o.currency
left join held h on l.entry_id = h.entry_id
