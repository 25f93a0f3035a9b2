-- One row is one meter that the vendor reported for a try. gross is the vendor's count, own is what is left of it without the
-- meters inside it, so that each unit is counted once. A count that is no exact non-negative whole number, or that is smaller
-- than what lies inside it, is a fault: it is quarantined and never charged.
-- check: select raw_id, raw_ordinal, meter from usage_reported group by raw_id, raw_ordinal, meter having count(*) > 1
-- check: fault is not null or (gross >= own and own >= 0)
with counts as (
    select o.raw_id, o.raw_ordinal, d.meter, d.inside, json_extract_string(o.object, d.json_path) as written
    from usage_objects o join table_dialects d on o.dialect = d.dialect and o.path = d.path
),
parsed as (
    select
        raw_id, raw_ordinal, meter, inside, written,
        case
            when regexp_matches(written, '^[0-9]{1,18}(\.0+)?$')
            then try_cast(regexp_replace(written, '\.0+$', '') as bigint)
        end as quantity
    from counts where written is not null
),
grossed as (
    select
        raw_id, raw_ordinal, meter, max(inside) as inside, max(quantity) as gross,
        max(case when quantity is null then written end) as unreadable
    from parsed group by raw_id, raw_ordinal, meter
),
contained as (
    select raw_id, raw_ordinal, inside as meter, cast(sum(gross) as bigint) as gross
    from grossed where inside is not null group by raw_id, raw_ordinal, inside
),
usage_reported as (
    select
        g.raw_id, g.raw_ordinal, g.meter, g.gross,
        g.gross - coalesce(c.gross, 0) as own,
        case
            when g.unreadable is not null then g.meter || ' is reported as ' || substr(g.unreadable, 1, 40) || ', which is no whole number'
            when g.gross < coalesce(c.gross, 0)
            then g.meter || ' is reported as ' || g.gross || ', but ' || c.gross || ' are reported inside it'
        end as fault
    from grossed g
    left join contained c on g.raw_id = c.raw_id and g.raw_ordinal = c.raw_ordinal and g.meter = c.meter
)
select * from usage_reported
