-- One row is one top-up as a lot: what was paid for it, what it gave, how much of that was a bonus, and when it lapses. How much
-- of it is left is worked out by etl/lots.py, over closed months too.
-- check: credit > 0 and bonus >= 0 and bonus <= credit
-- check: unique lot_id
select
    l.entry_id as lot_id, l.wallet, l.bucket, l.currency, l.posted_at,
    try_cast(json_extract_string(e.facts, '$.paid') as decimal(38,12)) as paid,
    l.amount as credit, e.bonus,
    try_cast(json_extract_string(e.facts, '$.expires') as timestamp) as expires,
    l.period
from admin_legs l join admin_events e on l.transaction_id = e.transaction_id
where l.wallet is not null and l.kind = 'topup' and l.amount > 0
