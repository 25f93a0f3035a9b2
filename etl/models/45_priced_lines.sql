-- One row is one billed meter of one model at one price, with its amount: quantity x unit price, exact in 12 decimals. Without a price the amount
-- is null. A meter that costs only where a price names it is left out where none does. A meter has several rows where marginal
-- rows cut the prompt, where the lines of a batch reach different thresholds, and where a term of the contract gives or adds: what is free of it is a row at price 0, what the minimum and
-- the step add are rows at the meter's price, and each has the term in rate_id. The list price counts for them all.
-- Prices in another currency: `conversion` is what the exact sum of a try, converted at once and rounded once half to even, has more
-- (or less) than its converted lines together.
-- A channel's rounding rule adds a line: what its vendor's bill for the try has more (or less) than the other lines together. The
-- bill is their sum to the nearest multiple of the unit, half of one upwards, and the minimum at least; a sum of zero stays zero.
-- Flat charges are the contract's own figure and are not rounded.
-- check: amount is not distinct from cast(quantity as decimal(20,0)) * unit_price and quantity > 0
-- check: unique raw_id, raw_ordinal, sent_model, meter, rate_id, list_rate_id
with quoted as (
    select
        context, meter,
        charge_rate_id as rate_id, charge_unit_price as unit_price, charge_effective_from as rate_effective_from, priced_as,
        own_unit_price, multiplier_id, fx_id, fx_rate, fx_from, no_rate_for,
        list_rate_id, list_unit_price, list_own_price, list_fx_id, list_fx_rate, list_fx_from,
        token_from, token_to, minimum_id, minimum, minimum_from, step_id, step, step_from, allowance_id, allowance_from,
        token_from > 0 or token_to < 9223372036854775807 as is_cut,
        minimum_id is not null or step_id is not null or allowance_id is not null as is_termed
    from prices
),
-- what a marginal row cuts or a term of the contract changes
priced as (
    select
        l.request_id, l.raw_id, l.raw_ordinal, l.ordinal, l.channel, l.sent_model, l.piece, l.meter, l.quantity, l.optional,
        q.* exclude (context, meter)
    from billed_lines l join quoted q on l.context = q.context and l.meter = q.meter
    where (not l.optional or q.rate_id is not null) and (q.is_cut or q.is_termed)
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
measured as (
    -- from and to count the units of the line: what was measured, cut where its price changes
    select
        p.*,
        greatest(p.token_from - coalesce(a.token_at, 0), 0) as unit_from,
        least(case when p.is_cut then p.token_to - a.token_at else p.quantity end, p.quantity) as unit_to
    from priced p
    left join places a on p.raw_id = a.raw_id and p.raw_ordinal = a.raw_ordinal and p.piece = a.piece and p.meter = a.meter
),
billed as (
    select
        m.*,
        greatest(m.quantity, coalesce(m.minimum, 0)) as least_quantity,
        greatest(m.quantity, coalesce(m.minimum, 0))
            + (coalesce(m.step, 1) - greatest(m.quantity, coalesce(m.minimum, 0)) % coalesce(m.step, 1)) % coalesce(m.step, 1) as billed_quantity,
        coalesce(u.free_quantity, 0) as free_quantity
    from measured m
    left join allowance_use u
        on m.raw_id = u.raw_request_id and m.raw_ordinal = u.raw_ordinal and m.piece = u.piece and m.meter = u.meter
    where m.unit_from < m.unit_to
),
turned as (
    -- what was measured, what the minimum and the step add to it, and what the allowance takes: each is a line of its own
    select b.*, k.kind
    from billed b
    join (
        select 'measured' as kind union all select 'minimum' union all select 'step' union all select 'free'
    ) k
        on k.kind = 'measured'
        or (k.kind = 'minimum' and b.unit_to = b.quantity and b.least_quantity > b.quantity)
        or (k.kind = 'step' and b.unit_to = b.quantity and b.billed_quantity > b.least_quantity)
        or (k.kind = 'free' and b.unit_from = 0)
),
pieces as (
    select
        request_id, raw_id, raw_ordinal, ordinal, channel, sent_model, meter, optional,
        case kind when 'minimum' then minimum_id when 'step' then step_id when 'free' then allowance_id else rate_id end as rate_id,
        case kind when 'minimum' then minimum_from when 'step' then step_from when 'free' then allowance_from else rate_effective_from end as rate_effective_from,
        case when kind = 'free' then cast(0 as decimal(18,12)) else unit_price end as unit_price,
        case when kind <> 'free' then priced_as end as priced_as,
        case when kind <> 'free' then own_unit_price end as own_unit_price,
        case when kind <> 'free' then multiplier_id end as multiplier_id,
        case when kind <> 'free' then fx_id end as fx_id,
        case when kind <> 'free' then fx_rate end as fx_rate,
        fx_from,
        case when kind <> 'free' then no_rate_for end as no_rate_for,
        list_rate_id, list_unit_price, list_own_price, list_fx_id, list_fx_rate, list_fx_from,
        case kind
            when 'measured' then greatest(unit_from, free_quantity)
            when 'minimum' then greatest(quantity, free_quantity)
            when 'step' then greatest(least_quantity, free_quantity)
            else 0
        end as piece_from,
        case kind when 'measured' then unit_to when 'minimum' then least_quantity when 'step' then billed_quantity else free_quantity end as piece_to
    from turned
),
-- tries that more than one line may tell the same meter of: all others need no sum
in_pieces as (
    select distinct raw_id, raw_ordinal from billed_lines where piece <> ''
),
whole as (
    select
        l.request_id, l.raw_id, l.raw_ordinal, l.ordinal, l.channel, l.sent_model, l.meter, l.quantity, l.optional,
        q.* exclude (context, meter), i.raw_id is not null as is_in_pieces
    from billed_lines l
    join quoted q on l.context = q.context and l.meter = q.meter
    left join in_pieces i on l.raw_id = i.raw_id and l.raw_ordinal = i.raw_ordinal
    where (not l.optional or q.rate_id is not null) and not q.is_cut and not q.is_termed
),
counted as (
    select
        request_id, raw_id, raw_ordinal, ordinal, channel, sent_model, meter, quantity, optional,
        rate_id, unit_price, rate_effective_from, priced_as, own_unit_price, multiplier_id, fx_id, fx_rate, fx_from, no_rate_for,
        list_rate_id, list_unit_price, list_own_price, list_fx_id, list_fx_rate, list_fx_from
    from whole where is_in_pieces
    union all
    select
        request_id, raw_id, raw_ordinal, ordinal, channel, sent_model, meter, piece_to - piece_from, optional,
        rate_id, unit_price, rate_effective_from, priced_as, own_unit_price, multiplier_id, fx_id, fx_rate, fx_from, no_rate_for,
        list_rate_id, list_unit_price, list_own_price, list_fx_id, list_fx_rate, list_fx_from
    from pieces where piece_from < piece_to
),
asked as (
    select
        request_id, raw_id, raw_ordinal, ordinal, channel, sent_model, meter, quantity, optional,
        rate_id, unit_price, rate_effective_from, priced_as, own_unit_price, multiplier_id, fx_id, fx_rate, fx_from, no_rate_for,
        list_rate_id, list_unit_price, list_own_price, list_fx_id, list_fx_rate, list_fx_from
    from whole where not is_in_pieces
    union all
    select
        request_id, raw_id, raw_ordinal, ordinal, channel, sent_model, meter, cast(sum(quantity) as bigint) as quantity, optional,
        rate_id, unit_price, rate_effective_from, priced_as, own_unit_price, multiplier_id, fx_id, fx_rate, fx_from, no_rate_for,
        list_rate_id, list_unit_price, list_own_price, list_fx_id, list_fx_rate, list_fx_from
    from counted group by all
),
flat as (
    select
        request_id, raw_id, raw_ordinal, ordinal, channel, sent_model, 'flat_fee' as meter, cast(1 as bigint) as quantity, true as optional,
        policy_id as rate_id, cast(flat_amount as decimal(18,12)) as unit_price, effective_from as rate_effective_from, 'flat_fee' as priced_as,
        null as own_unit_price, null as multiplier_id, null as fx_id, null as fx_rate, null as fx_from, null as no_rate_for,
        cast(null as varchar) as list_rate_id, cast(0 as decimal(18,12)) as list_unit_price,
        null as list_own_price, null as list_fx_id, null as list_fx_rate, null as list_fx_from
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
foreign_sums as (
    select
        request_id, raw_id, raw_ordinal, ordinal, channel, fx_id, fx_rate, max(fx_from) as fx_from,
        cast(sum(cast(quantity as decimal(20,0)) * own_unit_price) as decimal(20,12)) as own_sum,
        cast(sum(amount) as decimal(38,12)) as converted, cast(null as decimal(20,12)) as list_own_sum, cast(null as decimal(38,12)) as list_converted
    from amounts where fx_id is not null
    group by request_id, raw_id, raw_ordinal, ordinal, channel, fx_id, fx_rate
    union all
    select
        request_id, raw_id, raw_ordinal, ordinal, channel, list_fx_id, list_fx_rate, max(list_fx_from), null, null,
        cast(sum(cast(quantity as decimal(20,0)) * list_own_price) as decimal(20,12)), cast(sum(list_amount) as decimal(38,12))
    from amounts where list_fx_id is not null
    group by request_id, raw_id, raw_ordinal, ordinal, channel, list_fx_id, list_fx_rate
),
exact as (
    select
        request_id, raw_id, raw_ordinal, ordinal, channel, fx_id, max(fx_from) as fx_from,
        coalesce(max(own_sum), 0) * fx_rate as product, coalesce(max(list_own_sum), 0) * fx_rate as list_product,
        coalesce(max(converted), 0) as converted, coalesce(max(list_converted), 0) as list_converted
    from foreign_sums
    group by request_id, raw_id, raw_ordinal, ordinal, channel, fx_id, fx_rate
),
near as (
    -- a cast rounds half away from zero
    select *, cast(product as decimal(38,12)) as near, cast(list_product as decimal(38,12)) as list_near from exact
),
differences as (
    select
        *,
        near - converted - case when near - product = 0.0000000000005 and near % 0.000000000002 <> 0 then 0.000000000001 else 0 end as difference,
        list_near - list_converted
            - case when list_near - list_product = 0.0000000000005 and list_near % 0.000000000002 <> 0 then 0.000000000001 else 0 end as list_difference
    from near
),
conversions as (
    select
        request_id, raw_id, raw_ordinal, ordinal, channel, cast(null as varchar) as sent_model, 'conversion' as meter, cast(1 as bigint) as quantity, true as optional,
        fx_id as rate_id, cast(difference as decimal(18,12)) as unit_price, fx_from as rate_effective_from, 'conversion' as priced_as,
        null as own_unit_price, null as multiplier_id, fx_id, null as fx_rate, null as fx_from, null as no_rate_for,
        cast(null as varchar) as list_rate_id, cast(list_difference as decimal(18,12)) as list_unit_price,
        null as list_own_price, null as list_fx_id, null as list_fx_rate, null as list_fx_from,
        cast(difference as decimal(38,12)) as amount, cast(list_difference as decimal(38,12)) as list_amount
    from differences where difference <> 0 or list_difference <> 0
),
exact_amounts as (
    select * from amounts
    union all
    select * from conversions
),
sums as (
    select
        a.request_id, a.raw_id, a.raw_ordinal, a.ordinal, a.channel, cast(null as varchar) as sent_model,
        c.rounding_unit as unit, coalesce(c.rounding_minimum, 0) as minimum,
        cast(sum(a.amount) as decimal(38,12)) as exact
    from exact_amounts a join book_channel c on a.channel = c.name
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
        'rounding' as priced_as, null as own_unit_price, null as multiplier_id, null as fx_id, null as fx_rate, null as fx_from, null as no_rate_for,
        cast(null as varchar) as list_rate_id, cast(0 as decimal(18,12)) as list_unit_price,
        null as list_own_price, null as list_fx_id, null as list_fx_rate, null as list_fx_from,
        cast(bill - exact as decimal(38,12)) as amount, cast(0 as decimal(38,12)) as list_amount
    from bills where bill <> exact
),
priced_lines as (
    select * from exact_amounts
    union all
    select * from roundings
)
select * from priced_lines
