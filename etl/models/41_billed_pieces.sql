-- One row is one piece of one try that has to be priced, with everything but the meter that a price may depend on: channel, model,
-- tier, region, endpoint, the number of input tokens of the piece (as the highest threshold of the book that they reach), the stretch
-- of time between two changes of the book, and the minute of the vendor's week. context numbers all that: of contexts there are few.
-- is_call: the piece is one call of call_model. A request is one call of the model it was sent to, whatever models answered; a line
-- of a batch's output is one of its own. is_metered: something is counted that its rule charges.
-- check: at_or_after is not null and input_band is not null and context is not null and (call_context is not null) = is_call
-- check: unique raw_id, raw_ordinal, piece
with changes as (
    select timestamp '0001-01-01 00:00:00' as changed_at
    union select effective_from from book_rate
    union select effective_to from book_rate where effective_to is not null
    union select effective_from from book_term
    union select effective_to from book_term where effective_to is not null
    union select effective_from from book_fx
    union select effective_to from book_fx where effective_to is not null
),
stretches as (
    select changed_at as starts_at, coalesce(lead(changed_at) over (order by changed_at), timestamp '9999-12-31 00:00:00') as ends_at from changes
),
thresholds as (
    select cast(0 as bigint) as low
    union select min_input_tokens from book_rate where min_input_tokens is not null and not marginal
),
bands as (
    select low, coalesce(lead(low) over (order by low), 9223372036854775807) as high from thresholds
),
timed as (
    -- models whose price knows the hour; for all others the minute would only make more questions
    select distinct model from book_rate where hours is not null or weekdays is not null
),
first_pieces as (
    -- of tries in pieces; the reply as a whole, where there is one, comes first
    select raw_id, raw_ordinal, min(piece) as piece from usage_pieces
    where (raw_id, raw_ordinal) in (select raw_id, raw_ordinal from usage_pieces where piece <> '') group by raw_id, raw_ordinal
),
pieces as (
    select
        b.*, z.piece, coalesce(p.priced_model, z.model, b.sent_model) as model, coalesce(z.input_tokens, 0) as piece_input,
        case b.rule when 'usage' then z.has_units else coalesce(z.input_tokens, 0) > 0 end as is_metered,
        b.rule = 'usage' and case when b.job = 'output' then z.piece not like '% inner %' else z.piece = coalesce(f.piece, '') end as is_call
    from billing b
    join usage_pieces z on b.raw_id = z.raw_id and b.raw_ordinal = z.raw_ordinal
    left join priced_models p on b.channel = p.channel and z.model = p.model
    left join first_pieces f on b.raw_id = f.raw_id and b.raw_ordinal = f.raw_ordinal
    where b.rule in ('usage', 'input')
),
placed as (
    select
        b.request_id, b.raw_id, b.raw_ordinal, b.ordinal, b.rule, b.channel, b.piece, b.is_metered, b.is_call, b.model,
        case when b.is_call then case when b.job = 'output' then b.model else b.sent_model end end as call_model,
        b.service_tier, b.region, b.endpoint,
        s.starts_at as at_or_after,
        n.low as input_band,
        case when b.model in (select model from timed) or b.sent_model in (select model from timed) or '*' in (select model from timed) then
            (date_diff('minute', timestamp '1970-01-05 00:00:00', b.received_at) + coalesce(z.offset_minutes, 0)) % 10080
        end as week_minute
    from pieces b
    join stretches s on b.received_at >= s.starts_at and b.received_at < s.ends_at
    join bands n on b.piece_input >= n.low and b.piece_input < n.high
    left join book_offset z
        on b.timezone = z.timezone and b.received_at >= z.starts_at and b.received_at < z.ends_at
),
contexts as (
    select *, row_number() over (order by channel, model, service_tier, region, endpoint, input_band, at_or_after, week_minute) as context
    from (
        select channel, model, service_tier, region, endpoint, input_band, at_or_after, week_minute from placed
        union
        select channel, call_model, service_tier, region, endpoint, input_band, at_or_after, week_minute from placed where is_call
    )
),
billed_pieces as (
    select p.*, c.context, k.context as call_context
    from placed p
    join contexts c
        on p.channel is not distinct from c.channel and p.model is not distinct from c.model
        and p.service_tier is not distinct from c.service_tier and p.region is not distinct from c.region
        and p.endpoint is not distinct from c.endpoint and p.input_band = c.input_band and p.at_or_after = c.at_or_after
        and p.week_minute is not distinct from c.week_minute
    left join contexts k
        on p.is_call and p.channel is not distinct from k.channel and p.call_model is not distinct from k.model
        and p.service_tier is not distinct from k.service_tier and p.region is not distinct from k.region
        and p.endpoint is not distinct from k.endpoint and p.input_band = k.input_band and p.at_or_after = k.at_or_after
        and p.week_minute is not distinct from k.week_minute
)
select * from billed_pieces
