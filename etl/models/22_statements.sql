-- One row is one statement in a request about who it belongs to, from its headers or its body, strongest first within a fact.
-- check: request_id is not null and fact is not null and value is not null
with firsts as (
    select m.request_id, r.headers, r.body_facts
    from members m join received r on m.raw_id = r.raw_id
    where m.position = 1
),
in_headers as (
    select
        f.request_id, a.fact, a.priority, a.name as source, a.overrides_registry,
        json_extract_string(f.headers, '$."' || a.name || '"') as value
    from firsts f join table_attribution a on a.place = 'header'
),
in_bodies as (
    select
        f.request_id, a.fact, a.priority, 'body.' || a.name as source, a.overrides_registry,
        json_extract_string(f.body_facts, '$.' || a.name) as value
    from firsts f join table_attribution a on a.place = 'body'
    where f.body_facts is not null
),
tag_names as (
    select request_id, headers, unnest(json_keys(headers)) as name from firsts where headers like '%x-ledger-tag-%'
),
in_tags as (
    select
        request_id, 'tag:' || substr(name, 14) as fact, 1 as priority, name as source, false as overrides_registry,
        json_extract_string(headers, '$."' || name || '"') as value
    from tag_names where name like 'x-ledger-tag-%'
),
statements as (
    select * from in_headers where value <> ''
    union all
    select * from in_bodies where value <> ''
    union all
    select * from in_tags where value <> ''
)
select * from statements
