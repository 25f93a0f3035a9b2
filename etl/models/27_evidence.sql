-- One row is one thing that a gateway beyond ours told about its own route, with where it stood. Any header can be forged or
-- copied through by a relay, so this is kept beside our own facts and never put in their place. Two gateways in one chain
-- each have their rows; what one of them retried is not counted among our own tries.
-- A text is taken apart only for the names that it holds, or, where names in it may be escaped, for all.
-- check: gateway is not null and fact is not null and value <> '' and source is not null
-- check: unique request_id, attempt_ordinal, gateway, fact, source
with told as (
    select s.request_id, s.raw_id, s.raw_ordinal, s.ordinal, g.gateway, g.fact, g.pick, 'header ' || g.name as source,
        json_extract_string(s.headers, '$."' || g.name || '"') as written
    from steps s
    join headings h on h.side = 'response' and s.heading = h.heading
    join table_signals g on g.place = 'header' and h.name = g.name
    where s.ordinal > 0
    union all
    select s.request_id, s.raw_id, s.raw_ordinal, s.ordinal, g.gateway, g.fact, g.pick, 'body ' || g.name as source,
        case when g.member is null or contains(s.facts, g.member) or contains(s.facts, '\') then json_extract_string(s.facts, g.name) end as written
    from steps s join table_signals g on g.place = 'body'
    where s.ordinal > 0 and s.facts is not null and s.facts <> '{}'
    union all
    select u.request_id, u.raw_id, u.raw_ordinal, u.ordinal, g.gateway, g.fact, g.pick, u.place.path || ' ' || g.name as source,
        case
            when g.member is null or contains(u.place.object, g.member) or contains(u.place.object, '\')
            then json_extract_string(u.place.object, g.name)
        end as written
    from (
        select request_id, raw_id, raw_ordinal, ordinal, unnest(usage) as place from steps where ordinal > 0 and usage is not null
    ) u join table_signals g on g.place = 'usage'
),
picked as (
    select * exclude (pick, written), case when pick is null then written else regexp_extract(written, pick, 1) end as value
    from told where written is not null
),
evidence as (
    select request_id, ordinal as attempt_ordinal, gateway, fact, value, source, raw_id, raw_ordinal
    from picked where value <> '' and value <> 'None'
)
select * from evidence
