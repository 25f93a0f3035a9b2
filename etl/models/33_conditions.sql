-- One row is one try with the service tier and the region that it is charged at: that of the endpoint (a batch), else what the
-- vendor returned, in the message or in its usage, else the region of the host, else what was asked for, which is then assumed.
-- An ordinary tier and a region that is none in particular are null.
-- check: region_source in ('returned', 'host', 'assumed', 'none') and (region is null or region_source <> 'none')
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
        s.raw_id, s.raw_ordinal, case when s.job is distinct from 'output' or b.raw_id is not null then s.endpoint_tier end as endpoint_tier,
        lower(coalesce(s.service_tier, t.tier, json_extract_string(s.facts, '$.service_tier'))) as returned,
        lower(coalesce(t.speed, json_extract_string(s.facts, '$.speed'))) as returned_speed,
        lower(json_extract_string(s.body_facts, '$.service_tier')) as asked,
        lower(json_extract_string(s.body_facts, '$.speed')) as asked_speed,
        s.http_status between 200 and 299 or s.http_status = 101 as is_success
    from steps s
    left join told t on s.raw_id = t.raw_id and s.raw_ordinal = t.raw_ordinal
    left join (select distinct raw_id, raw_ordinal from batch_lines) b on s.raw_id = b.raw_id and s.raw_ordinal = b.raw_ordinal
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
hosts as (
    select h.host, t.priority, regexp_extract(h.host, t.name, 1) as region
    from (select distinct regexp_extract(coalesce(url, ''), '^[a-z]+://([^/:]+)', 1) as host from steps) h
    join table_regions t on t.place = 'host' and regexp_matches(h.host, t.name)
),
places as (
    select o.raw_id, o.raw_ordinal, t.priority, 'returned' as source, json_extract_string(o.object, t.name) as region
    from usage_objects o join table_regions t on t.place = 'usage' and o.path in ('usage', 'message.usage')
    union all
    select s.raw_id, s.raw_ordinal, t.priority, 'returned', json_extract_string(s.facts, t.name)
    from steps s join table_regions t on t.place = 'facts' where s.facts is not null
    union all
    select s.raw_id, s.raw_ordinal, t.priority, 'returned', json_extract_string(s.headers, '$."' || t.name || '"')
    from steps s
    join headings h on h.side = 'response' and s.heading = h.heading
    join table_regions t on t.place = 'header' and h.name = t.name
    union all
    select s.raw_id, s.raw_ordinal, h.priority, 'host', h.region
    from steps s join hosts h on regexp_extract(coalesce(s.url, ''), '^[a-z]+://([^/:]+)', 1) = h.host
    union all
    select s.raw_id, s.raw_ordinal, t.priority, 'assumed', json_extract_string(s.body_facts, t.name)
    from steps s join table_regions t on t.place = 'asked'
    where s.body_facts is not null and (s.http_status between 200 and 299 or s.http_status = 101)
),
regions as (
    select raw_id, raw_ordinal, source, case when lower(region) not in ('global', 'not_available') then lower(region) end as region
    from places where region <> ''
    qualify row_number() over (partition by raw_id, raw_ordinal order by priority, region) = 1
),
conditions as (
    select
        d.*, r.region,
        case when r.source = 'assumed' and r.region is null then 'none' else coalesce(r.source, 'none') end as region_source
    from decided d left join regions r on d.raw_id = r.raw_id and d.raw_ordinal = r.raw_ordinal
)
select * from conditions
