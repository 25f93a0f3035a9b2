-- One row is one month, UTC day and run of which a request is new, changed or gone: what sums are made of it again. is_open: the
-- month can be booked in.
-- check: period is not null and day is not null and is_open is not null
select distinct period, cast(created_at as date) as day, run_id, period in (select period from book_period) as is_open
from (select period, created_at, run_id from ledger union all select period, created_at, run_id from replaced_request)
