-- One row is one try with its token totals, where they come from, and what the vendor said it charged.
-- input_tokens is the whole input and output_tokens the whole output, whatever the dialect calls them: sums over what each
-- meter holds on its own.
-- check: usage_source in ('reported', 'partial', 'recounted', 'none')
-- check: select count(*) from usage_totals having count(*) is distinct from (select count(*) from steps)
with in_pieces as (
    select distinct raw_id, raw_ordinal from usage_pieces where piece <> ''
),
by_family as (
    select u.* exclude (piece, model, has_units)
    from usage_pieces u anti join in_pieces i on u.raw_id = i.raw_id and u.raw_ordinal = i.raw_ordinal
    union all
    select
        u.raw_id, u.raw_ordinal, max(u.has_recounted), max(u.has_reported), min(u.source), cast(sum(u.input_tokens) as bigint),
        cast(sum(u.output_tokens) as bigint), cast(sum(u.cached_input_tokens) as bigint), cast(sum(u.cache_write_tokens) as bigint),
        cast(sum(u.reasoning_tokens) as bigint)
    from usage_pieces u join in_pieces i on u.raw_id = i.raw_id and u.raw_ordinal = i.raw_ordinal
    group by u.raw_id, u.raw_ordinal
),
charges_in_usage as (
    select o.raw_id, o.raw_ordinal, v.priority, v.unit, json_extract_string(o.object, v.json_path) as written
    from usage_objects o join table_vendor_charges v on v.place = 'usage' and v.path = o.path and o.piece = ''
),
charges_in_headers as (
    select s.raw_id, s.raw_ordinal, v.priority, v.unit, json_extract_string(s.headers, '$."' || v.json_path || '"') as written
    from steps s
    join headings h on h.side = 'response' and s.heading = h.heading
    join table_vendor_charges v on v.place = 'header' and h.name = v.json_path
    -- headers leave before a stream has cost anything: a zero there is not known
    where not (s.streamed and try_cast(json_extract_string(s.headers, '$."' || v.json_path || '"') as decimal(25,12)) = 0)
),
charges_in_facts as (
    select s.raw_id, s.raw_ordinal, v.priority, v.unit, json_extract_string(s.facts, v.json_path) as written
    from steps s join table_vendor_charges v on v.place = 'facts'
    where s.facts is not null
),
vendor_charges as (
    select
        raw_id, raw_ordinal,
        cast(try_cast(written as decimal(25,12)) * cast(unit as decimal(12,10)) as decimal(38,12)) as vendor_charge
    from (select * from charges_in_usage union all select * from charges_in_headers union all select * from charges_in_facts)
    where try_cast(written as decimal(25,12)) is not null
    qualify row_number() over (partition by raw_id, raw_ordinal order by priority) = 1
),
usage_totals as (
    select
        s.raw_id, s.raw_ordinal,
        case
            when f.has_recounted = 1 and f.has_reported = 1 then 'partial'
            when f.source = 'recounted' then 'recounted'
            when f.source is null then 'none'
            when s.outcome in ('ok', 'empty_reply', 'refused_no_output', 'refused_with_output') then 'reported'
            when s.outcome = 'client_gone' and s.is_whole then 'reported'  -- the gateway read on to the end for it
            else 'partial'
        end as usage_source,
        f.input_tokens, f.output_tokens, f.cached_input_tokens, f.cache_write_tokens, f.reasoning_tokens,
        v.vendor_charge
    from steps s
    left join by_family f on s.raw_id = f.raw_id and s.raw_ordinal = f.raw_ordinal
    left join vendor_charges v on s.raw_id = v.raw_id and s.raw_ordinal = v.raw_ordinal
)
select * from usage_totals
