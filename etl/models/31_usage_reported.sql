-- One row is one meter of one part of one piece of a try's usage. gross is the vendor's count, own is what is left of it without
-- the meters inside it, so that each unit is counted once. A count that is no exact non-negative whole number (of seconds, a started one
-- counts whole), one smaller than what lies inside it, parts that do not add up to the vendor's total, and a count that the
-- endpoint owes and that is not there, are faults: they are quarantined and never charged.
-- check: unique raw_id, raw_ordinal, piece, part, meter
-- check: fault is not null or (gross >= own and own >= 0)
with places as (
    select *, pick = min(pick) over (partition by dialect, rule, meter) as is_first from table_dialects
),
alone as (
    select raw_id, raw_ordinal, piece, part from usage_objects group by raw_id, raw_ordinal, piece, part having count(*) = 1
),
objects as (
    select o.*, a.raw_id is not null as is_alone
    from usage_objects o
    left join alone a on o.raw_id = a.raw_id and o.raw_ordinal = a.raw_ordinal and o.piece = a.piece and o.part = a.part
),
scalars as (
    -- an object is taken apart only for the names that it holds, or, where names in it may be escaped, for all; a case keeps that order
    select o.raw_id, o.raw_ordinal, o.piece, o.part, o.priority, o.source, d.rule, d.meter, d.pick, d.inside, o.is_alone and d.is_first as is_unbeaten,
        case when d.member is null or contains(o.object, d.member) or contains(o.object, '\') then json_extract_string(o.object, d.json_path) end as written
    from objects o
    join places d on o.dialect = d.dialect
    where d.list_path is null and (o.keeps = 'all' or d.meter in (select name from meter where family = 'other'))
),
lists as (
    select o.raw_id, o.raw_ordinal, o.piece, o.part, o.priority, o.source, d.rule, d.meter, d.pick, d.inside,
        o.is_alone and d.is_first as is_unbeaten,
        d.json_path, d.item_path, d.item_value, unnest(cast(json_extract(o.object, d.list_path) as json[])) as item
    from objects o join places d on o.dialect = d.dialect
    where d.list_path is not null and o.keeps = 'all' and json_type(o.object, d.list_path) = 'ARRAY'
),
written as (
    select * from scalars where written is not null
    union all
    select raw_id, raw_ordinal, piece, part, priority, source, rule, meter, pick, inside, is_unbeaten, json_extract_string(item, json_path)
    from lists where json_extract_string(item, item_path) = item_value and json_extract_string(item, json_path) is not null
),
first_places as (
    -- of one meter's members, and of the places of one member, the first that is there; what nothing can come before needs no order
    select * from written where is_unbeaten
    union all
    select w.* from written w
    anti join (select * from written where is_unbeaten) f
        on w.raw_id = f.raw_id and w.raw_ordinal = f.raw_ordinal and w.piece = f.piece and w.part = f.part and w.rule = f.rule
        and w.meter is not distinct from f.meter
    where not w.is_unbeaten
    qualify dense_rank() over (partition by w.raw_id, w.raw_ordinal, w.piece, w.part, w.rule, w.meter order by w.pick, w.priority) = 1
),
parsed as (
    select
        w.*, coalesce(m.unit, 'token') as unit,
        case
            when m.unit = 'second' and regexp_matches(w.written, '^[0-9]{1,12}\.[0-9]{1,20}$')
            then cast(ceil(try_cast(w.written as decimal(38,18))) as bigint)
            -- more than 15 digits before a point may have been bent by a binary fraction on their way
            when regexp_matches(w.written, '^[0-9]{1,18}$') or regexp_matches(w.written, '^[0-9]{1,15}\.0+$')
            then try_cast(regexp_replace(w.written, '\.0+$', '') as bigint)
        end as quantity
    from first_places w left join meter m on w.meter = m.name
),
totals as (
    select raw_id, raw_ordinal, piece, part, max(meter) as meter, max(rule) as rule, max(written) as written, max(quantity) as total
    from parsed where rule in ('total', 'rest') group by raw_id, raw_ordinal, piece, part
),
grossed as (
    select
        raw_id, raw_ordinal, piece, part, meter, max(source) as source,
        max(inside) as inside,
        cast(sum(case when rule = 'less' then -quantity else quantity end) as bigint) as gross,
        max(case when quantity is null then written end) as unreadable,
        max(case when rule = 'outside' or unit <> 'token' then 1 else 0 end) = 0 as is_in_total
    from parsed where rule in ('count', 'outside', 'add', 'less') group by raw_id, raw_ordinal, piece, part, meter
),
sums as (
    select raw_id, raw_ordinal, piece, part, max(source) as source,
        cast(sum(case when inside is null and is_in_total then gross end) as bigint) as parts,
        max(unreadable) as unreadable
    from grossed group by raw_id, raw_ordinal, piece, part
),
with_rest as (
    select raw_id, raw_ordinal, piece, part, meter, source, inside, gross, unreadable from grossed
    union all
    select t.raw_id, t.raw_ordinal, t.piece, t.part, t.meter, s.source, null, t.total - s.parts, case when t.total is null then t.written end
    from totals t join sums s on t.raw_id = s.raw_id and t.raw_ordinal = s.raw_ordinal and t.piece = s.piece and t.part = s.part
    where t.rule = 'rest' and s.parts is not null
),
contained as (
    select raw_id, raw_ordinal, piece, part, inside as meter, cast(sum(gross) as bigint) as gross
    from with_rest where inside is not null group by raw_id, raw_ordinal, piece, part, inside
),
metered as (
    select
        g.raw_id, g.raw_ordinal, g.piece, g.part, g.meter, g.source, g.gross,
        g.gross - coalesce(c.gross, 0) as own,
        case
            when g.unreadable is not null then g.meter || ' is reported as ' || substr(g.unreadable, 1, 40) || ', which is no whole number'
            when g.gross < coalesce(c.gross, 0)
            then g.meter || ' is reported as ' || g.gross || ', but ' || c.gross || ' are reported inside it'
            when g.gross < 0 then g.meter || ' comes to ' || g.gross
        end as fault
    from with_rest g
    left join contained c on g.raw_id = c.raw_id and g.raw_ordinal = c.raw_ordinal and g.piece = c.piece and g.part = c.part and g.meter = c.meter
),
missums as (
    select
        t.raw_id, t.raw_ordinal, t.piece, t.part, 'total' as meter, s.source,
        case
            when t.total is null then 'the total is reported as ' || substr(t.written, 1, 40) || ', which is no whole number'
            else 'the total is reported as ' || t.total || ', but its parts add up to ' || coalesce(s.parts, 0)
        end as fault
    from totals t join sums s on t.raw_id = s.raw_id and t.raw_ordinal = s.raw_ordinal and t.piece = s.piece and t.part = s.part
    where t.rule = 'total' and s.unreadable is null and t.total is distinct from coalesce(s.parts, 0)
),
families as (
    select u.raw_id, u.raw_ordinal, max(u.source) as source,
        max(case when m.family = 'input' then 1 else 0 end) as has_input,
        max(case when m.family = 'output' then 1 else 0 end) as has_output
    from metered u join meter m on u.meter = m.name
    where u.part = 'tokens' group by u.raw_id, u.raw_ordinal
),
prompts as (
    select distinct raw_id, raw_ordinal from usage_objects where tells_prompt
),
owed as (
    select f.raw_id, f.raw_ordinal, '' as piece, 'tokens' as part, 'missing' as meter, f.source,
        case when f.has_input = 0 then 'no input is reported' else 'no output is reported' end as fault
    from families f join steps s on f.raw_id = s.raw_id and f.raw_ordinal = s.raw_ordinal
    left join prompts p on f.raw_id = p.raw_id and f.raw_ordinal = p.raw_ordinal
    where (s.owes like '%input%' and f.has_input = 0) or (s.owes like '%output%' and f.has_output = 0 and p.raw_id is null)
),
silent as (
    select raw_id, raw_ordinal, 'line ' || line as piece, 'tokens' as part, 'missing' as meter, 'reported' as source, 'it succeeded and tells no usage' as fault
    from batch_lines where counts and usage is null
),
found as (
    select * from metered
    union all
    select raw_id, raw_ordinal, piece, part, meter, source, null, null, fault from missums
    union all
    select raw_id, raw_ordinal, piece, part, meter, source, null, null, fault from owed
    union all
    select raw_id, raw_ordinal, piece, part, meter, source, null, null, fault from silent
),
usage_reported as (
    select * exclude (fault), case when piece = '' then fault else piece || ': ' || fault end as fault from found
)
select * from usage_reported
