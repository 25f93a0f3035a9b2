-- One row is one meter of one piece of one try that has to be priced, with the context in which it is (41_billed_pieces.sql). Meters
-- that count nothing are left out: nothing is due for them. A call is a meter too.
-- check: quantity > 0 and context is not null
-- check: unique raw_id, raw_ordinal, piece, meter
with metered as (
    select
        p.request_id, p.raw_id, p.raw_ordinal, p.ordinal, p.piece, p.channel, p.model as sent_model, p.context,
        u.meter, u.own as quantity, m.optional
    from usage_lines u
    join meter m on u.meter = m.name
    join billed_pieces p on u.raw_id = p.raw_id and u.raw_ordinal = p.raw_ordinal and u.piece = p.piece
    where u.own > 0 and (p.rule = 'usage' or m.family = 'input')
),
searched as (
    select raw_id, raw_ordinal, max(json_extract_string(object, '$.search_context_size')) as context_size
    from usage_objects where path = 'usage' and piece = '' group by raw_id, raw_ordinal
),
calls as (
    select
        p.request_id, p.raw_id, p.raw_ordinal, p.ordinal, p.piece, p.channel, p.call_model as sent_model, p.call_context as context,
        coalesce(v.name, 'request') as meter, cast(1 as bigint) as quantity, true as optional
    from billed_pieces p
    left join searched s on p.raw_id = s.raw_id and p.raw_ordinal = s.raw_ordinal
    left join meter v on v.name = 'request_' || s.context_size
    where p.is_call
)
select * from metered
union all
select * from calls
