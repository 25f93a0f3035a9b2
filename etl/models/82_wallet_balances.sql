-- One row is one wallet, bucket and currency with the balance after everything posted, and what of it is held at the build's instant.
-- check: balance is not null and available = balance - held
-- check: select b.wallet, b.bucket from wallet_balances b join (select wallet, bucket, currency, balance_after from wallet_statement qualify row_number() over (partition by wallet, bucket, currency order by posted_at desc, entry_id desc) = 1) s on b.wallet = s.wallet and b.bucket = s.bucket and b.currency = s.currency where b.balance is distinct from s.balance_after
with holds as (
    select h.wallet, h.bucket, h.currency, h.amount
    from wallet_holds h join setting s on h.placed_at <= s.as_of and s.as_of < h.ends_at
),
movements as (
    select wallet, bucket, currency, amount, cast(0 as decimal(38,12)) as held from wallet_statement
    union all
    select wallet, bucket, currency, balance as amount, cast(0 as decimal(38,12)) as held from opening
    union all
    select wallet, bucket, currency, cast(0 as decimal(38,12)) as amount, amount as held from holds
)
select
    wallet, bucket, currency, cast(sum(amount) as decimal(38,12)) as balance, cast(sum(held) as decimal(38,12)) as held,
    cast(sum(amount) - sum(held) as decimal(38,12)) as available
from movements group by wallet, bucket, currency
