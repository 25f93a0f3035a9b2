-- One row is one wallet, bucket and currency with the balance after everything posted.
-- check: balance is not null
-- check: select b.wallet, b.bucket from wallet_balances b join (select wallet, bucket, currency, balance_after from wallet_statement qualify row_number() over (partition by wallet, bucket, currency order by posted_at desc, entry_id desc) = 1) s on b.wallet = s.wallet and b.bucket = s.bucket and b.currency = s.currency where b.balance is distinct from s.balance_after
with movements as (
    select wallet, bucket, currency, amount from journal where wallet is not null
    union all
    select wallet, bucket, currency, balance as amount from opening
)
select wallet, bucket, currency, cast(sum(amount) as decimal(38,12)) as balance
from movements group by wallet, bucket, currency
