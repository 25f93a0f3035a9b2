-- One row is one meter of one piece of one try that has to be priced, with everything a price may depend on: channel, model, tier,
-- region, endpoint, the number of input tokens of the piece (as the highest threshold of the book that they reach), the stretch of time between two changes of
-- the book, and the minute of the vendor's week. Meters that count nothing are left out: nothing is due for them.
-- check: quantity > 0 and at_or_after is not null and input_band is not null
-- check: select raw_id, raw_ordinal, piece, meter from billed_lines group by all having count(*) > 1
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
sizes as (
    select u.raw_id, u.raw_ordinal, u.piece, u.model, cast(sum(case when m.family = 'input' then u.own else 0 end) as bigint) as input_tokens
    from usage_lines u join meter m on u.meter = m.name
    group by u.raw_id, u.raw_ordinal, u.piece, u.model
),
pieces as (
    select b.*, z.piece, coalesce(p.priced_model, z.model, b.sent_model) as model, z.input_tokens as piece_input
    from billing b
    join sizes z on b.raw_id = z.raw_id and b.raw_ordinal = z.raw_ordinal
    left join priced_models p on b.channel = p.channel and z.model = p.model
    where b.rule in ('usage', 'input')
),
placed as (
    select
        b.request_id, b.raw_id, b.raw_ordinal, b.ordinal, b.rule, b.job, b.channel, b.piece, b.model, b.sent_model, b.service_tier, b.region, b.endpoint,
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
metered as (
    select p.* exclude (model, sent_model), p.model as sent_model, u.meter, u.own as quantity, m.optional
    from placed p
    join usage_lines u on p.raw_id = u.raw_id and p.raw_ordinal = u.raw_ordinal and p.piece = u.piece
    join meter m on u.meter = m.name
    where u.own > 0 and (p.rule = 'usage' or m.family = 'input')
),
-- a request is one call of the model it was sent to, whatever models answered; a line of a batch's output is one of its own
called as (
    select * exclude (model, sent_model), sent_model from placed where rule = 'usage' and job is distinct from 'output' and piece = ''
    union all
    select * exclude (model, sent_model), sent_model from placed
    where rule = 'usage' and job is distinct from 'output' and piece <> ''
        and (raw_id, raw_ordinal) not in (select raw_id, raw_ordinal from placed where piece = '')
    qualify row_number() over (partition by raw_id, raw_ordinal order by piece) = 1
    union all
    select * exclude (model, sent_model), model as sent_model from placed where rule = 'usage' and job = 'output' and piece not like '% inner %'
),
searched as (
    select raw_id, raw_ordinal, max(json_extract_string(object, '$.search_context_size')) as context_size
    from usage_objects where path = 'usage' and piece = '' group by raw_id, raw_ordinal
),
calls as (
    select c.*, coalesce(v.name, 'request') as meter, cast(1 as bigint) as quantity, true as optional
    from called c
    left join searched s on c.raw_id = s.raw_id and c.raw_ordinal = s.raw_ordinal
    left join meter v on v.name = 'request_' || s.context_size
),
billed_lines as (
    select * from metered
    union all
    select * from calls
)
select * from billed_lines
