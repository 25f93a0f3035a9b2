-- One row is one failed attempt and the policy row that decided what it costs.
-- check: outcome is not null
select
    request_id, ordinal as attempt_ordinal, raw_id as raw_request_id, channel, outcome, policy_id, policy, charge,
    cast(flat_amount as decimal(38,12)) as flat_amount, effective_from
from policies
