-- One row is one row of terms.csv, as it was when the ledger was built.
-- check: (multiplier is null) = (term <> 'multiplier') and (quantity is null) = (term = 'multiplier')
select term_id, channel, model, meter, term, multiplier, quantity, pool, effective_from, effective_to, source, note, line
from book_term
