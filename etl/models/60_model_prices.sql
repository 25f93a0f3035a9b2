-- One row is one row of rates.csv, as it was when the ledger was built.
-- check: unit_price >= 0
select
    rate_id, book, channel, model, meter, unit_price, cast(price as decimal(38,12)) as price, cast(per as decimal(38,12)) as per, currency,
    effective_from, effective_to, service_tier, min_input_tokens, hours, weekdays, region, endpoint, marginal, source, note, line
from book_rate
