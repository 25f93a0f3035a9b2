-- One row is one distinct question "what does this meter cost there and then" and a stretch of a prompt, with the winning row of the
-- price book and of the list book. A meter without a price of its own has that of the nearest meter that stands for it (meter_chain); among the rows that
-- apply, the most specific wins. The stretch is the whole prompt, but where marginal rows cut it: such a row applies to the tokens
-- from its limit on. Beside the prices stand the terms of the contract that apply.
-- A unit price is that of the row, times the contract's multiplier (own_unit_price, exact), in the book's currency: where the row
-- is in another, times its exchange rate, rounded half to even to 12 decimals. The list price knows no multiplier; where the list
-- book has no answer and the channel is the vendor itself, its plain price is the list price.
-- charge_unit_price is null where the book has no answer, or none for the currency that no_rate_for names.
-- check: token_from < token_to and (charge_unit_price is null) = (charge_rate_id is null or no_rate_for is not null)
-- check: own_unit_price is null or cast(own_unit_price as decimal(36,24)) = charge_row_price * coalesce(multiplier, 1)
-- check: unique context, meter, token_from
-- check: unique channel, model, meter, service_tier, region, endpoint, input_band, at_or_after, week_minute, token_from
with contexts as (
    select context, channel, model, service_tier, region, endpoint, input_band, at_or_after, week_minute from billed_pieces
    union
    select call_context, channel, call_model, service_tier, region, endpoint, input_band, at_or_after, week_minute from billed_pieces where is_call
),
asked as (
    select distinct context, meter from billed_lines
),
questions as (
    select
        c.context, a.meter, coalesce(c.channel, '') as channel, coalesce(c.model, '') as model, coalesce(c.service_tier, '') as service_tier,
        coalesce(c.region, '') as region, coalesce(c.endpoint, '') as endpoint, c.input_band, c.at_or_after, coalesce(c.week_minute, -1) as week_minute
    from contexts c
    join (
        select context, meter from asked
        union
        -- the plain input and output price is asked for on every try, for the ledger's price columns
        select a.context, m.name from asked a join meter m on m.name in ('input', 'output')
    ) a on c.context = a.context
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
        row_number() over (order by context, meter, token_from) as question,
        *,
        coalesce(lead(token_from) over (partition by context, meter order by token_from), 9223372036854775807) as token_to
    from stretches
),
answers as (
    select
        q.question, r.book, r.rate_id, r.unit_price, r.currency, r.effective_from, c.priced_as,
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
    where (r.minute_from is null
        or (r.minute_from < r.minute_to and q.week_minute % 1440 >= r.minute_from and q.week_minute % 1440 < r.minute_to)
        or (r.minute_from >= r.minute_to and (q.week_minute % 1440 >= r.minute_from or q.week_minute % 1440 < r.minute_to)))
        and (r.weekdays is null
        or r.weekdays like '%' || substr('montuewedthufrisatsun', cast(1 + 3 * (q.week_minute // 1440) as integer), 3) || '%')
),
agreed as (
    -- a meter stands for those that would have its price too; the nearest one wins, and any (*) is farthest
    select
        q.question, t.slot, t.term_id, t.term, t.multiplier, t.quantity, t.pool, t.effective_from,
        row_number() over (
            partition by q.question, t.slot
            order by case when t.channel = '*' then 1 else 0 end, case when t.model = '*' then 1 else 0 end,
                case when t.meter = '*' then 1 else 0 end, c.depth, t.term_id
        ) as place
    from numbered q
    join meter_chain c on q.meter = c.meter
    join book_term t
        on (t.meter = c.priced_as or (t.meter = '*' and c.depth = 0))
        and (t.channel = '*' or t.channel = q.channel)
        and (t.model = '*' or t.model = q.model)
        and t.effective_from <= q.at_or_after
        and coalesce(t.effective_to, timestamp '9999-12-31 00:00:00') > q.at_or_after
),
terms as (
    select
        question,
        max(case when slot = 'multiplier' then term_id end) as multiplier_id,
        max(case when slot = 'multiplier' then multiplier end) as multiplier,
        max(case when slot = 'minimum' then term_id end) as minimum_id,
        max(case when slot = 'minimum' then quantity end) as minimum,
        max(case when slot = 'minimum' then effective_from end) as minimum_from,
        max(case when slot = 'step' then term_id end) as step_id,
        max(case when slot = 'step' then quantity end) as step,
        max(case when slot = 'step' then effective_from end) as step_from,
        max(case when slot = 'allowance' then term_id end) as allowance_id,
        max(case when slot = 'allowance' then term end) as allowance_term,
        max(case when slot = 'allowance' then quantity end) as allowance,
        max(case when slot = 'allowance' then effective_from end) as allowance_from,
        max(pool) as pool
    from agreed where place = 1
    group by question
),
told as (
    select
        q.*,
        c.rate_id as charge_rate_id, c.unit_price as charge_row_price, c.currency as charge_currency, c.effective_from as charge_effective_from,
        c.priced_as,
        case when l.rate_id is null and h.route = 'official' then c.rate_id else l.rate_id end as list_rate_id,
        case when l.rate_id is null and h.route = 'official' then c.unit_price else l.unit_price end as list_own_price,
        case when l.rate_id is null and h.route = 'official' then c.currency else l.currency end as list_currency,
        t.* exclude (question),
        cast(c.unit_price * coalesce(t.multiplier, cast(1 as decimal(18,12))) as decimal(18,12)) as own_unit_price
    from numbered q
    left join answers c on q.question = c.question and c.book = 'charge' and c.place = 1
    left join answers l on q.question = l.question and l.book = 'list' and l.place = 1
    left join terms t on q.question = t.question
    left join book_channel h on q.channel = h.name
),
exchanged as (
    select
        t.*, f.fx_id, f.rate as fx_rate, f.effective_from as fx_from, g.fx_id as list_fx_id, g.rate as list_fx_rate, g.effective_from as list_fx_from,
        case when t.charge_currency = s.currency then cast(1 as decimal(18,12)) else f.rate end * t.own_unit_price as charge_product,
        case when t.list_currency = s.currency then cast(1 as decimal(18,12)) else g.rate end * t.list_own_price as list_product,
        case when t.charge_currency <> s.currency and f.rate is null then t.charge_currency end as no_rate_for
    from told t
    cross join setting s
    left join book_fx f
        on t.charge_currency = f.currency and f.effective_from <= t.at_or_after
        and coalesce(f.effective_to, timestamp '9999-12-31 00:00:00') > t.at_or_after
    left join book_fx g
        on t.list_currency = g.currency and g.effective_from <= t.at_or_after
        and coalesce(g.effective_to, timestamp '9999-12-31 00:00:00') > t.at_or_after
),
near as (
    -- a cast rounds half away from zero
    select *, cast(charge_product as decimal(18,12)) as charge_near, cast(list_product as decimal(18,12)) as list_near from exchanged
),
prices as (
    select
        * exclude (charge_product, list_product, charge_near, list_near),
        case when cast(charge_near as decimal(36,24)) - charge_product = 0.0000000000005 and charge_near % 0.000000000002 <> 0
            then cast(charge_near - 0.000000000001 as decimal(18,12)) else charge_near end as charge_unit_price,
        case when cast(list_near as decimal(36,24)) - list_product = 0.0000000000005 and list_near % 0.000000000002 <> 0
            then cast(list_near - 0.000000000001 as decimal(18,12)) else list_near end as list_unit_price
    from near
)
select * from prices
