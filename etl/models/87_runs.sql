-- One row is one agent run: every request that named it, in one total.
-- check: run_id is not null and requests > 0
select
    run_id, min(created_at) as first_at, max(created_at) as last_at,
    cast(count(*) as bigint) as requests,
    cast(sum(case when status = 'ok' then 1 else 0 end) as bigint) as ok,
    cast(sum(attempt_count) as bigint) as attempts,
    cast(sum(input_tokens) as bigint) as input_tokens,
    cast(sum(output_tokens) as bigint) as output_tokens,
    case when sum(case when final_charge is null then 1 else 0 end) = 0 then cast(sum(final_charge) as decimal(38,12)) end as final_charge,
    cast(sum(final_charge) as decimal(38,12)) as known_charge,
    case when sum(case when list_charge is null then 1 else 0 end) = 0 then cast(sum(list_charge) as decimal(38,12)) end as list_charge,
    cast(sum(case when final_charge is null then 1 else 0 end) as bigint) as unpriced,
    cast(count(distinct user_id) as bigint) as users,
    cast(count(distinct project) as bigint) as projects,
    currency
from ledger where run_id in (select run_id from touched)
group by run_id, currency
