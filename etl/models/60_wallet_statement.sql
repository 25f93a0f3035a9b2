-- One row is one journal leg on a wallet, with the bucket's balance after it.
-- check: balance_after is not null
-- check: select count(*) from wallet_statement having count(*) is distinct from (select count(*) from journal where account like 'wallet:%')
with legs as (
    select * from journal where wallet is not null
)
select
    l.entry_id, l.posted_at, l.wallet, l.bucket, l.kind, l.amount,
    cast(coalesce(o.balance, 0) + sum(l.amount) over (
        partition by l.wallet, l.bucket, l.currency order by l.posted_at, l.entry_id rows between unbounded preceding and current row
    ) as decimal(38,12)) as balance_after,
    l.request_id, l.actor, l.reason, l.currency
from legs l
left join opening o on l.wallet = o.wallet and l.bucket = o.bucket and l.currency = o.currency
