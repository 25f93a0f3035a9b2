-- One row is one distinct question "what does this meter cost there and then" and a stretch of a prompt, with the winning row of the
-- price book and of the list book. A meter without a price of its own has that of the meter it lies inside; among the rows that
-- apply, the most specific wins. charge_ columns are null where the book has no answer. The stretch is the whole prompt, but where
-- marginal rows cut it: such a row applies to the tokens from its limit on.
-- check: charge_rate_id is null or charge_unit_price is not null
-- check: token_from < token_to
-- check: select channel, model, meter, service_tier, region, endpoint, input_band, at_or_after, week_minute, token_from from prices group by all having count(*) > 1
with questions as (
    select distinct
        coalesce(channel, '') as channel, coalesce(sent_model, '') as model, meter, coalesce(service_tier, '') as service_tier,
        coalesce(region, '') as region, coalesce(endpoint, '') as endpoint, input_band, at_or_after, coalesce(week_minute, -1) as week_minute
    from billed_lines
    union
    -- the plain input and output price is asked for on every try, for the ledger's price columns
    select distinct
        coalesce(l.channel, ''), coalesce(l.sent_model, ''), m.name, coalesce(l.service_tier, ''),
        coalesce(l.region, ''), coalesce(l.endpoint, ''), l.input_band, l.at_or_after, coalesce(l.week_minute, -1)
    from billed_lines l join meter m on m.name in ('input', 'output')
),
cuts as (
    select channel, model, c.meter, min_input_tokens - 1 as token_from
    from book_rate r join meter_chain c on r.meter = c.priced_as
    where r.marginal
),
stretches as (
    select q.*, cast(0 as bigint) as token_from from questions q
    union
    select q.*, c.token_from
    from questions q join cuts c on q.meter = c.meter and c.channel in ('*', q.channel) and c.model in ('*', q.model)
),
numbered as (
    -- one number stands for the whole question in the joins below
    select
        row_number() over (
            order by channel, model, meter, service_tier, region, endpoint, input_band, at_or_after, week_minute, token_from
        ) as question,
        *,
        coalesce(lead(token_from) over (
            partition by channel, model, meter, service_tier, region, endpoint, input_band, at_or_after, week_minute order by token_from
        ), 9223372036854775807) as token_to
    from stretches
),
answers as (
    select
        q.question, r.book, r.rate_id, r.unit_price, r.effective_from, c.priced_as,
        row_number() over (
            partition by q.question, r.book order by c.depth, r.specificity desc, r.effective_from desc, r.rate_id
        ) as place
    from numbered q
    join meter_chain c on q.meter = c.meter
    join book_rate r
        on r.meter = c.priced_as
        and (r.channel = '*' or r.channel = q.channel)
        and (r.model = '*' or r.model = q.model)
        and r.effective_from <= q.at_or_after
        and coalesce(r.effective_to, timestamp '9999-12-31 00:00:00') > q.at_or_after
        and (r.service_tier is null or r.service_tier = q.service_tier)
        and (r.region is null or r.region = q.region)
        and (r.endpoint is null or r.endpoint = q.endpoint)
        and (r.min_input_tokens is null
            or (r.marginal and r.min_input_tokens <= q.token_from + 1)
            or (not r.marginal and r.min_input_tokens <= q.input_band))
    join setting s on r.currency = s.currency
    where (r.minute_from is null
        or (r.minute_from < r.minute_to and q.week_minute % 1440 >= r.minute_from and q.week_minute % 1440 < r.minute_to)
        or (r.minute_from >= r.minute_to and (q.week_minute % 1440 >= r.minute_from or q.week_minute % 1440 < r.minute_to)))
        and (r.weekdays is null
        or r.weekdays like '%' || substr('montuewedthufrisatsun', cast(1 + 3 * (q.week_minute // 1440) as integer), 3) || '%')
),
prices as (
    select
        q.*,
        c.rate_id as charge_rate_id, c.unit_price as charge_unit_price, c.effective_from as charge_effective_from, c.priced_as,
        l.rate_id as list_rate_id, l.unit_price as list_unit_price
    from numbered q
    left join answers c on q.question = c.question and c.book = 'charge' and c.place = 1
    left join answers l on q.question = l.question and l.book = 'list' and l.place = 1
)
select * from prices
