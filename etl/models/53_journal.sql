-- One row is one leg of a balanced transaction: what traffic cost and what people entered.
-- check: amount is not null and period is not null and kind in ('charge', 'suspense', 'topup', 'adjustment', 'refund', 'expiry')
-- check: select transaction_id, currency, sum(amount) as sum from journal group by transaction_id, currency having sum(amount) is distinct from 0
-- check: select entry_id from journal group by entry_id having count(*) > 1
-- check: select transaction_id from journal group by transaction_id having count(distinct bucket) is distinct from 1
select
    transaction_id, entry_id, posted_at, period, account, amount, currency, kind, request_id, reference, actor, reason, service_at, wallet, bucket
from charge_legs
union all
select
    transaction_id, entry_id, posted_at, period, account, amount, currency, kind, request_id, reference, actor, reason, service_at, wallet, bucket
from admin_legs
