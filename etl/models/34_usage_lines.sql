-- One row is one meter of one piece of one try: gross as the ledger totals it, own as it is charged, who counted, and the piece's
-- own model, null where it is the try's. The parts and the pieces of a try's usage add up. Images and seconds of video are counted as their variant of quality and size, where there is one.
-- check: gross >= 0 and own >= 0 and source in ('reported', 'recounted')
-- check: unique raw_id, raw_ordinal, piece, meter
with made as (
    -- as the answer says, else as was asked
    select
        raw_id, raw_ordinal,
        coalesce(json_extract_string(facts, '$.size'), json_extract_string(body_facts, '$.size')) as size,
        coalesce(json_extract_string(facts, '$.quality'), json_extract_string(body_facts, '$.quality')) as quality
    from steps
),
variants as (
    select distinct
        u.raw_id, u.raw_ordinal, u.meter, coalesce(q.name, p.name) as variant
    from usage_reported u
    join made v on u.raw_id = v.raw_id and u.raw_ordinal = v.raw_ordinal
    left join meter q on q.name = u.meter || '_' || v.quality || '_' || v.size
    left join meter p on p.name = u.meter || '_' || v.size
    where u.meter in ('image', 'video_second') and coalesce(q.name, p.name) is not null
),
models as (
    select distinct raw_id, raw_ordinal, piece, model from usage_objects where piece <> ''
),
reported as (
    select
        u.raw_id, u.raw_ordinal, u.piece, coalesce(x.variant, u.meter) as meter,
        cast(sum(u.gross) as bigint) as gross, cast(sum(u.own) as bigint) as own, max(u.source) as source
    from usage_reported u
    join usage_verdicts v on u.raw_id = v.raw_id and u.raw_ordinal = v.raw_ordinal
    left join variants x on u.raw_id = x.raw_id and u.raw_ordinal = x.raw_ordinal and u.meter = x.meter
    left join meter m on u.meter = m.name
    where (v.is_reported and not (v.wants_output and coalesce(m.family, '') = 'output')) or (v.wants_recount and u.part <> 'tokens')
    group by u.raw_id, u.raw_ordinal, u.piece, coalesce(x.variant, u.meter)
),
counted as (
    select * from reported
    union all
    select raw_id, raw_ordinal, '' as piece, meter, quantity as gross, quantity as own, 'recounted' as source from recount
),
usage_lines as (
    select c.*, m.model
    from counted c left join models m on c.raw_id = m.raw_id and c.raw_ordinal = m.raw_ordinal and c.piece = m.piece
)
select * from usage_lines
