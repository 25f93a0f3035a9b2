-- One row is one object from which a try's usage is read. Of the places where usage stands, or that stand in for it (facts of the
-- message, headers, the request), the first row of usage_places.csv that holds names the dialect of its part; all places of
-- that dialect are kept, for a later place may say what an earlier one leaves out.
-- check: object is not null and dialect is not null and source in ('reported', 'recounted')
-- check: select raw_id, raw_ordinal, part, path from usage_objects group by all having count(*) > 1
-- check: select raw_id, raw_ordinal, part from usage_objects group by all having count(distinct dialect) > 1
with reported as (
    select raw_id, raw_ordinal, unnest(usage) as place from steps where usage is not null
),
seen as (
    select raw_id, raw_ordinal, place.path as path, place.object as object from reported
    union all
    select raw_id, raw_ordinal, '(facts)', facts from steps where facts is not null
    union all
    select raw_id, raw_ordinal, '(headers)', headers from steps where headers is not null
    union all
    select raw_id, raw_ordinal, '(request)', body_facts from steps where body_facts is not null and http_status between 200 and 299
),
known as (
    select
        n.raw_id, n.raw_ordinal, n.path, n.object, s.endpoint, c.usage_dialect,
        regexp_extract(coalesce(s.url, ''), '^[a-z]+://([^/:]+)', 1) as host
    from seen n
    join steps s on n.raw_id = s.raw_id and n.raw_ordinal = s.raw_ordinal
    left join book_channel c on s.channel = c.name
),
matched as (
    select k.raw_id, k.raw_ordinal, k.path, k.object, p.priority, p.dialect, p.part, p.role, p.source
    from known k
    join table_usage_places p
        on k.path = p.path
        and (p.endpoint = '%' or k.endpoint like p.endpoint)
        and (p.vendor is null or p.vendor = k.usage_dialect or (k.usage_dialect is null and k.host like p.host))
        and (p.has is null or json_extract_string(k.object, p.has) is not null)
),
ruled as (
    select raw_id, raw_ordinal, part, dialect from matched where role = 'main'
    qualify row_number() over (partition by raw_id, raw_ordinal, part order by priority, path) = 1
),
usage_objects as (
    select m.raw_id, m.raw_ordinal, m.part, m.dialect, m.path, m.priority, m.source, m.object
    from matched m
    join ruled r on m.raw_id = r.raw_id and m.raw_ordinal = r.raw_ordinal and m.part = r.part and m.dialect = r.dialect
    qualify row_number() over (partition by m.raw_id, m.raw_ordinal, m.part, m.path order by m.priority) = 1
)
select * from usage_objects
