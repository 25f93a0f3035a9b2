-- One row is one try with the service tier that it is charged at: that of the endpoint (a batch), else the one that the vendor
-- returned, in the message or in its usage, else the one asked for, which is then assumed. An ordinary tier is null.
-- check: tier_source in ('endpoint', 'returned', 'assumed', 'none') and (service_tier is null or tier_source <> 'none')
-- check: select count(*) from conditions having count(*) is distinct from (select count(*) from steps)
with told as (
    select
        raw_id, raw_ordinal,
        max(json_extract_string(object, '$.service_tier')) as tier,
        max(json_extract_string(object, '$.speed')) as speed
    from usage_objects where path in ('usage', 'message.usage') group by raw_id, raw_ordinal
),
named as (
    select
        s.raw_id, s.raw_ordinal, s.endpoint_tier,
        lower(coalesce(s.service_tier, t.tier, json_extract_string(s.facts, '$.service_tier'))) as returned,
        lower(coalesce(t.speed, json_extract_string(s.facts, '$.speed'))) as returned_speed,
        lower(json_extract_string(s.body_facts, '$.service_tier')) as asked,
        lower(json_extract_string(s.body_facts, '$.speed')) as asked_speed,
        s.http_status between 200 and 299 or s.http_status = 101 as is_success
    from steps s left join told t on s.raw_id = t.raw_id and s.raw_ordinal = t.raw_ordinal
),
tiers as (
    -- what a vendor calls its ordinary service is no tier of its own
    select n.*, r.tier as returned_tier, a.tier as asked_tier, coalesce(r.is_told, n.returned is not null) as is_returned
    from named n
    left join table_tiers r on n.returned = r.name
    left join table_tiers a on n.asked = a.name
),
decided as (
    select
        raw_id, raw_ordinal,
        case
            when endpoint_tier is not null then endpoint_tier
            when returned_speed is not null and returned_speed <> 'standard' then returned_speed
            when returned_speed is null and asked_speed is not null and asked_speed <> 'standard' and is_success then asked_speed
            when is_returned then returned_tier
            when is_success then asked_tier
        end as service_tier,
        case
            when endpoint_tier is not null then 'endpoint'
            when returned_speed is not null and returned_speed <> 'standard' then 'returned'
            when returned_speed is null and asked_speed is not null and asked_speed <> 'standard' and is_success then 'assumed'
            when is_returned then 'returned'
            when is_success and asked_tier is not null then 'assumed'
            else 'none'
        end as tier_source
    from tiers
),
conditions as (
    select * from decided
)
select * from conditions
