-- One row is one billed meter of one model at one price, with its amount: quantity x unit price, exact in 12 decimals. A meter has
-- more than one where marginal rows cut the prompt, or where the lines of a batch reach different thresholds. Without a price the
-- amount is null. A meter that costs only where a price names it is left out where none does. The list amount falls back to the
-- charge where the channel is the vendor itself, whose price is the list price.
-- A channel's rounding rule adds a line: what its vendor's bill for the try has more (or less) than the other lines together. The
-- bill is their sum to the nearest multiple of the unit, half of one upwards, and the minimum at least; a sum of zero stays zero.
-- Flat charges are the contract's own figure and are not rounded.
-- check: amount is not distinct from cast(quantity as decimal(20,0)) * unit_price
-- check: select raw_id, raw_ordinal, sent_model, meter, rate_id, list_rate_id from priced_lines group by all having count(*) > 1
with priced as (
    select
        l.request_id, l.raw_id, l.raw_ordinal, l.ordinal, l.channel, l.sent_model, l.piece, l.meter, l.quantity, l.optional,
        p.charge_rate_id as rate_id, p.charge_unit_price as unit_price, p.charge_effective_from as rate_effective_from, p.priced_as,
        case when p.list_rate_id is null and c.route = 'official' then p.charge_rate_id else p.list_rate_id end as list_rate_id,
        case when p.list_rate_id is null and c.route = 'official' then p.charge_unit_price else p.list_unit_price end as list_unit_price,
        p.token_from, p.token_to, p.token_from > 0 or p.token_to < 9223372036854775807 as is_cut
    from billed_lines l
    join prices p
        on coalesce(l.channel, '') = p.channel and coalesce(l.sent_model, '') = p.model and l.meter = p.meter
        and coalesce(l.service_tier, '') = p.service_tier and coalesce(l.region, '') = p.region and coalesce(l.endpoint, '') = p.endpoint
        and l.input_band = p.input_band and l.at_or_after = p.at_or_after and coalesce(l.week_minute, -1) = p.week_minute
    left join book_channel c on l.channel = c.name
    where not l.optional or p.charge_rate_id is not null
),
places as (
    -- how many tokens of the prompt stand before those of a meter: a cache knows the beginning of a prompt
    select
        l.raw_id, l.raw_ordinal, l.piece, l.meter,
        coalesce(sum(l.quantity) over (
            partition by l.raw_id, l.raw_ordinal, l.piece
            order by case when l.meter like 'cached%' then 0 when l.meter like 'cache_write%' then 1 else 2 end, l.meter
            rows between unbounded preceding and 1 preceding
        ), 0) as token_at
    from billed_lines l
    join meter m on l.meter = m.name and m.family = 'input'
    where (l.raw_id, l.raw_ordinal) in (select raw_id, raw_ordinal from priced where is_cut)
),
pieces as (
    select
        p.* exclude (quantity),
        least(a.token_at + p.quantity, p.token_to) - greatest(a.token_at, p.token_from) as quantity
    from priced p join places a on p.raw_id = a.raw_id and p.raw_ordinal = a.raw_ordinal and p.piece = a.piece and p.meter = a.meter
    where p.is_cut
),
asked as (
    select
        request_id, raw_id, raw_ordinal, ordinal, channel, sent_model, meter, cast(sum(quantity) as bigint) as quantity, optional,
        rate_id, unit_price, rate_effective_from, priced_as, list_rate_id, list_unit_price
    from (
        select * exclude (quantity), quantity from priced where not is_cut
        union all
        select * from pieces where quantity > 0
    )
    group by all
),
flat as (
    select
        request_id, raw_id, raw_ordinal, ordinal, channel, sent_model, 'flat_fee' as meter, cast(1 as bigint) as quantity, true as optional,
        policy_id as rate_id, cast(flat_amount as decimal(18,12)) as unit_price, effective_from as rate_effective_from, 'flat_fee' as priced_as,
        cast(null as varchar) as list_rate_id, cast(0 as decimal(18,12)) as list_unit_price
    from billing where rule = 'flat'
),
lines as (
    select * from asked
    union all
    select * from flat
),
amounts as (
    select
        *,
        cast(cast(quantity as decimal(20,0)) * unit_price as decimal(38,12)) as amount,
        cast(cast(quantity as decimal(20,0)) * list_unit_price as decimal(38,12)) as list_amount
    from lines
),
sums as (
    select
        a.request_id, a.raw_id, a.raw_ordinal, a.ordinal, a.channel, cast(null as varchar) as sent_model,
        c.rounding_unit as unit, coalesce(c.rounding_minimum, 0) as minimum,
        cast(sum(a.amount) as decimal(38,12)) as exact
    from amounts a join book_channel c on a.channel = c.name
    where c.rounding_unit is not null and a.meter <> 'flat_fee'
    group by a.request_id, a.raw_id, a.raw_ordinal, a.ordinal, a.channel, c.rounding_unit, c.rounding_minimum
    having count(*) = count(a.unit_price) and sum(a.amount) > 0
),
divided as (
    -- the remainder of a decimal is exact, and no quotient is needed
    select *, exact % unit as remainder from sums
),
bills as (
    select
        *,
        cast(greatest(exact - remainder + case when remainder + remainder >= unit then unit else 0 end, minimum) as decimal(38,12)) as bill
    from divided
),
roundings as (
    select
        request_id, raw_id, raw_ordinal, ordinal, channel, sent_model, 'rounding' as meter, cast(1 as bigint) as quantity, true as optional,
        'rounding:' || channel as rate_id, cast(bill - exact as decimal(18,12)) as unit_price, cast(null as timestamp) as rate_effective_from,
        'rounding' as priced_as, cast(null as varchar) as list_rate_id, cast(0 as decimal(18,12)) as list_unit_price,
        cast(bill - exact as decimal(38,12)) as amount, cast(0 as decimal(38,12)) as list_amount
    from bills where bill <> exact
),
priced_lines as (
    select * from amounts
    union all
    select * from roundings
)
select * from priced_lines
