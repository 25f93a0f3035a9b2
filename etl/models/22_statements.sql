-- One row is one statement in a request about who it belongs to, from its headers or its body, strongest first within a fact.
-- The same request at the other door speaks too: x-ledger-* headers do not leave the first door that they reach.
-- A text is taken apart only for the names that it holds; most hold none of them. An escaped name is one that it may hold. A case
-- keeps that order.
-- check: request_id is not null and fact is not null and value <> ''
with seen as (
    select m.request_id, m.raw_id from members m where m.position = 1
    union all
    select m.request_id, t.twin_id as raw_id from members m join twins t on m.raw_id = t.kept_id where m.position = 1
),
firsts as (
    select s.request_id, r.headers, r.heading, r.body_facts from seen s join received r on s.raw_id = r.raw_id
),
names as (
    select heading, name from headings where side = 'request'
),
in_headers as (
    select f.request_id, a.fact, a.priority, a.name as source, a.overrides_registry, a.pick, json_extract_string(f.headers, '$."' || a.name || '"') as written
    from firsts f
    join names n on f.heading = n.heading
    join table_attribution a on a.place = 'header' and n.name = a.name
),
in_bodies as (
    select f.request_id, a.fact, a.priority, 'body.' || a.name as source, a.overrides_registry, a.pick,
        case
            when a.member is null or contains(f.body_facts, a.member) or contains(f.body_facts, '\')
            then json_extract_string(f.body_facts, '$.' || a.name)
        end as written
    from firsts f join table_attribution a on a.place = 'body'
    where f.body_facts is not null
),
-- headers that are known by the shape of their name; what the shape catches is the tag's name
shapes as (
    select n.name, a.fact, a.priority, a.name as shape, a.overrides_registry, a.pick
    from (select distinct name from names) n
    join table_attribution a on a.place = 'header_like' and regexp_full_match(n.name, a.name)
    where n.name not in (select name from table_attribution where place = 'header')
),
in_shapes as (
    select
        f.request_id, case when a.fact = 'tag:' then 'tag:' || regexp_extract(n.name, a.shape, 1) else a.fact end as fact,
        a.priority, n.name as source, a.overrides_registry, a.pick, json_extract_string(f.headers, '$."' || n.name || '"') as written
    from firsts f
    join names n on f.heading = n.heading
    join shapes a on n.name = a.name
),
-- JSON objects of which each plain member is a tag
objects as (
    select f.request_id, a.priority, a.name as source, a.overrides_registry, json_extract_string(f.headers, '$."' || a.name || '"') as object
    from firsts f
    join names n on f.heading = n.heading
    join table_attribution a on a.place = 'header_object' and n.name = a.name
    union all
    select f.request_id, a.priority, 'body.' || a.name as source, a.overrides_registry, json_extract_string(f.body_facts, '$.' || a.name) as object
    from firsts f join table_attribution a on a.place = 'body_object'
    where f.body_facts is not null
),
members_of_objects as (
    select *, unnest(json_keys(object)) as member
    from (select * from objects where object like '{%' and json_valid(object))
),
in_objects as (
    select
        request_id, 'tag:' || member as fact, priority, source, overrides_registry, cast(null as varchar) as pick,
        json_extract_string(object, '$."' || replace(member, '"', '\"') || '"') as written
    from members_of_objects
    where json_type(object, '$."' || replace(member, '"', '\"') || '"') not in ('OBJECT', 'ARRAY', 'NULL')
        and not (source = 'body.metadata' and member in (select substr(name, 10) from table_attribution where name like 'metadata.%'))
),
written as (
    select * from in_headers
    union all
    select * from in_bodies
    union all
    select * from in_shapes
    union all
    select * from in_objects
),
statements as (
    select distinct
        request_id, fact, priority, source, overrides_registry,
        case when pick is null then written else regexp_extract(written, pick, 1) end as value
    from written where written is not null
)
select * from statements where value <> ''
