-- One row is one attempt and meter whose charge is not known, with what is missing.
-- check: reason is not null and period is not null
with no_price as (
    select
        l.request_id, l.ordinal, l.channel, l.sent_model, l.meter, l.quantity,
        case when l.no_rate_for is not null then 'no exchange rate for ' || l.no_rate_for || ': the ' else 'no ' end
            || 'price for ' || l.meter || ' of ' || coalesce(l.sent_model, '(no model)') || ' on ' || coalesce(l.channel, '(no channel)')
            || case when l.no_rate_for is not null then ' is in it' else '' end as reason
    from priced_lines l where l.unit_price is null
),
no_rule as (
    select request_id, ordinal, channel, sent_model, cast(null as varchar) as meter, cast(null as bigint) as quantity, reason
    from billing where rule in ('unpriced', 'unknown')
),
unknown as (
    select * from no_price
    union all
    select * from no_rule
)
select
    u.request_id, u.channel, f.api_model, u.sent_model as upstream_model, u.meter, u.quantity, u.reason,
    u.ordinal as attempt_ordinal, f.period
from unknown u join requests_created f on u.request_id = f.request_id
