-- One row is one piece of one try with its token totals, sums over what each meter holds on its own, and who counted them. has_units:
-- something of it is counted. Most replies are one piece.
-- check: unique raw_id, raw_ordinal, piece
-- check: source is not null and has_units is not null
select
    u.raw_id, u.raw_ordinal, u.piece, u.model,
    max(case when u.source = 'recounted' and m.family in ('input', 'output') then 1 else 0 end) as has_recounted,
    max(case when u.source = 'reported' and m.family in ('input', 'output') then 1 else 0 end) as has_reported,
    min(u.source) as source,
    max(case when u.own > 0 then 1 else 0 end) = 1 as has_units,
    cast(sum(case when m.family = 'input' then u.own end) as bigint) as input_tokens,
    cast(sum(case when m.family = 'output' then u.own end) as bigint) as output_tokens,
    cast(sum(case when u.meter in ('cached_input', 'cached_audio_input', 'cached_image_input') then u.own end) as bigint) as cached_input_tokens,
    cast(sum(case when u.meter in ('cache_write_5m', 'cache_write_30m', 'cache_write_1h') then u.own end) as bigint) as cache_write_tokens,
    cast(sum(case when u.meter = 'reasoning' then u.own end) as bigint) as reasoning_tokens
from usage_lines u join meter m on u.meter = m.name
group by u.raw_id, u.raw_ordinal, u.piece, u.model
