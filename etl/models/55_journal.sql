-- One row is one leg of a balanced transaction: what traffic cost, what people entered, and what was reversed. Two buckets meet in
-- no transaction but an explicit transfer and its reversal.
-- check: amount is not null and period is not null and kind in ('charge', 'suspense', 'topup', 'adjustment', 'refund', 'expiry', 'transfer', 'reversal')
-- check: (kind = 'reversal') = (reverses is not null)
-- check: select transaction_id, currency, sum(amount) as sum from journal group by transaction_id, currency having sum(amount) is distinct from 0
-- check: unique entry_id
-- check: select transaction_id from journal where kind not in ('transfer', 'reversal') group by transaction_id having min(bucket) is null or min(bucket) <> max(bucket)
-- check: select reverses, account, sum(amount) as left_over from (select reverses, account, amount from journal where kind = 'reversal' union all select transaction_id as reverses, account, amount from journal) where reverses in (select o.transaction_id from journal o join journal r on o.transaction_id = r.reverses) group by reverses, account having sum(amount) is distinct from 0
select
    transaction_id, entry_id, posted_at, period, account, amount, currency, kind, request_id, reference, actor, reason, service_at,
    cast(null as varchar) as reverses, wallet, bucket
from charge_legs
union all
select
    transaction_id, entry_id, posted_at, period, account, amount, currency, kind, request_id, reference, actor, reason, service_at,
    cast(null as varchar) as reverses, wallet, bucket
from admin_legs
union all
select
    transaction_id, entry_id, posted_at, period, account, amount, currency, kind, request_id, reference, actor, reason, service_at,
    reverses, wallet, bucket
from reversal_legs
