-- One row is one UTC day, project, user, key, model, channel and bucket: requests, tokens and charges.
-- check: requests > 0
-- check: select sum(requests) from usage_daily having sum(requests) is distinct from (select case when count(*) > 0 then count(*) end from ledger where cast(created_at as date) in (select day from touched))
select
    cast(created_at as date) as day, project, user_id, api_key_id, public_model, endpoint, served_channel, route, balance_bucket,
    cast(count(*) as bigint) as requests,
    cast(sum(case when status = 'ok' then 1 else 0 end) as bigint) as ok,
    cast(sum(attempt_count) as bigint) as attempts,
    cast(sum(input_tokens) as bigint) as input_tokens,
    cast(sum(cached_input_tokens) as bigint) as cached_input_tokens,
    cast(sum(output_tokens) as bigint) as output_tokens,
    cast(sum(reasoning_tokens) as bigint) as reasoning_tokens,
    cast(sum(final_charge) as decimal(38,12)) as charged,
    case when sum(case when list_charge is null then 1 else 0 end) = 0 then cast(sum(list_charge) as decimal(38,12)) end as list_charge,
    cast(sum(case when final_charge is null then 1 else 0 end) as bigint) as unpriced,
    currency
from ledger where cast(created_at as date) in (select day from touched)
group by cast(created_at as date), project, user_id, api_key_id, public_model, endpoint, served_channel, route, balance_bucket, currency
