-- One row is one journal leg on a wallet, of those that this build books.
-- check: amount is not null and period is not null
-- check: select count(*) from wallet_legs having count(*) is distinct from (select count(*) from journal where account like 'wallet:%')
select entry_id, posted_at, period, wallet, bucket, kind, amount, request_id, actor, reason, currency from journal where wallet is not null
