-- One row is one key from one instant to another, with what it was allowed: the row in force at an instant begins at or before it
-- and has not ended.
-- check: select a.id from key_permissions a join key_permissions b on a.id = b.id and a.line < b.line where coalesce(a.valid_from, timestamp '0001-01-01 00:00:00') < coalesce(b.valid_to, timestamp '9999-12-31 00:00:00') and coalesce(b.valid_from, timestamp '0001-01-01 00:00:00') < coalesce(a.valid_to, timestamp '9999-12-31 00:00:00')
select
    id, label, valid_from, valid_to, models, routes, expires, cast(monthly_limit as decimal(38,12)) as monthly_limit, enforce, trusted,
    cast(row_number() over (order by id, coalesce(valid_from, timestamp '0001-01-01 00:00:00')) as bigint) as line
from book_key
