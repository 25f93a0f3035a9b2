-- One row is one row of fx.csv, as it was when the ledger was built.
-- check: rate > 0
select fx_id, currency, rate, effective_from, effective_to, source, note, line
from book_fx
