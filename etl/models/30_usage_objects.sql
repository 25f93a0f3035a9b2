-- One row is one object from which a try's usage is read. Of the places where usage stands, or that stand in for it (facts of the
-- message, headers, the request), the first row of usage_places.csv that holds names the dialect of its part; all places of
-- that dialect are kept, for a later place may say what an earlier one leaves out.
-- piece is empty for the reply as a whole, else which piece of it: a line of a batch's output, a part that another model made
-- (inner_parts.csv); model is then the piece's own, null where it names none. Where such parts stand instead of the tokens at
-- the top, the object at the top keeps only its other counts.
-- tells_prompt: of its part nothing tells more than the prompt, so that what came of the output has to be counted.
-- check: object is not null and dialect is not null and source in ('reported', 'recounted') and keeps in ('all', 'other')
-- check: unique raw_id, raw_ordinal, piece, part, path
-- check: select raw_id, raw_ordinal, piece, part from usage_objects group by all having count(distinct dialect) > 1
with told as (
    select raw_id, raw_ordinal, endpoint, channel, url, usage, facts, headers, case when http_status between 200 and 299 then body_facts end as body_facts
    from steps where job is distinct from 'output'
),
reported as (
    select raw_id, raw_ordinal, endpoint, channel, url, unnest(usage) as place from told where usage is not null
),
seen as (
    select raw_id, raw_ordinal, '' as piece, cast(null as varchar) as model, endpoint, channel, url, place.path as path, place.object as object from reported
    union all
    select raw_id, raw_ordinal, '', null, endpoint, channel, url, '(facts)', facts from told where facts is not null
    union all
    select raw_id, raw_ordinal, '', null, endpoint, channel, url, '(headers)', headers from told where headers is not null
    union all
    select raw_id, raw_ordinal, '', null, endpoint, channel, url, '(request)', body_facts from told where body_facts is not null
    union all
    select
        l.raw_id, l.raw_ordinal, 'line ' || l.line, l.model, case when s.endpoint like 'messages%' then s.endpoint else 'batches.output' end,
        s.channel, s.url, l.path, l.usage
    from batch_lines l join steps s on l.raw_id = s.raw_id and l.raw_ordinal = s.raw_ordinal
    where l.counts and l.usage is not null
),
-- where usage may stand follows from what was asked of whom, and of that there is little
asked as (
    select
        a.endpoint, a.channel, a.url, c.usage_dialect, regexp_extract(coalesce(a.url, ''), '^[a-z]+://([^/:]+)', 1) as host
    from (select distinct endpoint, channel, url from seen) a left join book_channel c on a.channel = c.name
),
places as (
    select
        a.endpoint, a.channel, a.url, p.path, p.priority, p.dialect, p.part, p.role, p.source, p.has, p.member
    from asked a
    join table_usage_places p
        on (p.endpoint = '%' or a.endpoint like p.endpoint)
        and (p.vendor is null or p.vendor = a.usage_dialect or (a.usage_dialect is null and a.host like p.host))
),
matched as (
    select n.raw_id, n.raw_ordinal, n.piece, n.model, n.path, n.object, p.priority, p.dialect, p.part, p.role, p.source
    from seen n
    join places p
        on n.path = p.path and n.endpoint = p.endpoint and n.channel is not distinct from p.channel and n.url is not distinct from p.url
    -- an object is taken apart only for a name that it holds, or where names in it may be escaped; a case keeps that order
    where case
        when p.has is null then true
        when contains(n.object, p.member) or contains(n.object, '\') then json_extract_string(n.object, p.has) is not null
        else false
    end
),
ruled as (
    select raw_id, raw_ordinal, piece, part, dialect, role from matched where role in ('main', 'prompt')
    qualify row_number() over (partition by raw_id, raw_ordinal, piece, part order by priority, path) = 1
),
listed as (
    select
        k.raw_id, k.raw_ordinal, k.piece, k.model, k.path, k.object, i.priority, i.list_path, i.type_path, i.type, i.model_path, i.usage_path,
        i.stands, i.dialect, unnest(generate_series(0, cast(json_array_length(k.object, i.list_path) as bigint) - 1)) as place
    from seen k join table_inner_parts i on k.path = i.path and (i.endpoint = '%' or k.endpoint like i.endpoint)
    where json_type(k.object, i.list_path) = 'ARRAY'
),
items as (
    select *, json_extract(object, list_path || '[' || place || ']') as item from listed
),
typed as (
    select *, type_path is null or coalesce(json_extract_string(item, type_path) = type, false) as is_named from items
),
chosen as (
    select raw_id, raw_ordinal, piece, path, priority, stands from typed where is_named
    qualify row_number() over (partition by raw_id, raw_ordinal, piece order by priority, path) = 1
),
inner_parts as (
    select
        t.raw_id, t.raw_ordinal, trim(t.piece || ' inner ' || (t.place + 1)) as piece,
        coalesce(json_extract_string(t.item, t.model_path), t.model, case when t.is_named then '(no model)' end) as model,
        t.dialect, json_extract(t.item, t.usage_path) as object
    from typed t
    join chosen c
        on t.raw_id = c.raw_id and t.raw_ordinal = c.raw_ordinal and t.piece = c.piece and t.path = c.path and t.priority = c.priority
    where t.is_named or t.stands = 'instead'
),
usage_objects as (
    select
        m.raw_id, m.raw_ordinal, m.piece, m.model, m.part, m.dialect, m.path, m.priority, m.source, m.object,
        case when m.part = 'tokens' and c.stands = 'instead' then 'other' else 'all' end as keeps,
        r.role = 'prompt' as tells_prompt
    from matched m
    join ruled r on m.raw_id = r.raw_id and m.raw_ordinal = r.raw_ordinal and m.piece = r.piece and m.part = r.part and m.dialect = r.dialect
    left join chosen c on m.raw_id = c.raw_id and m.raw_ordinal = c.raw_ordinal and m.piece = c.piece
    qualify row_number() over (partition by m.raw_id, m.raw_ordinal, m.piece, m.part, m.path order by m.priority) = 1
    union all
    select raw_id, raw_ordinal, piece, model, 'tokens', dialect, '(inner)', 1, 'reported', cast(object as varchar), 'all', false
    from inner_parts where object is not null
)
select * from usage_objects
