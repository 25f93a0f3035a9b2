-- One row is one logical request of which tries are recorded, with the sums over them: what it costs, its list price, what its vendors
-- said, and leakage, what is charged for tries that did not end ok. A sum is null while a part of it is; what no vendor says is not.
-- check: leakage is null or final_charge is null or leakage <= final_charge
-- check: unique request_id
select
    request_id, charge as final_charge, list_charge, vendor_charge,
    cast(case when outcome <> 'ok' then charge else 0 end as decimal(38,12)) as leakage
from attempt_charges where is_only
union all
select
    request_id,
    case when sum(case when charge is null then 1 else 0 end) = 0 then cast(sum(charge) as decimal(38,12)) end,
    case when sum(case when list_charge is null then 1 else 0 end) = 0 then cast(sum(list_charge) as decimal(38,12)) end,
    cast(sum(vendor_charge) as decimal(38,12)),
    case when sum(case when outcome <> 'ok' and charge is null then 1 else 0 end) = 0
        then cast(coalesce(sum(case when outcome <> 'ok' then charge end), 0) as decimal(38,12)) end
from attempt_charges where not is_only group by request_id
