-- One row is one attempt, model, meter and price: quantity x unit_price = amount.
-- check: amount = cast(quantity as decimal(20,0)) * unit_price
-- check: unique request_id, attempt_ordinal, model, meter, rate_id, list_rate_id
select
    request_id, ordinal as attempt_ordinal, meter, quantity, unit_price, amount, rate_id, rate_effective_from,
    priced_as, list_unit_price, list_amount, list_rate_id, sent_model as model, multiplier_id, fx_id
from priced_lines where unit_price is not null
