-- One row is one billed meter with its price and amount: quantity x unit price, exact in 12 decimals. Without a price the amount
-- is null. A meter that costs only where a price names it is left out where none does. The list amount falls back to the charge
-- where the channel is the vendor itself, whose price is the list price.
-- check: amount is not distinct from cast(quantity as decimal(18,0)) * unit_price
-- check: select raw_id, raw_ordinal, meter from priced_lines group by raw_id, raw_ordinal, meter having count(*) > 1
with asked as (
    select
        l.request_id, l.raw_id, l.raw_ordinal, l.ordinal, l.channel, l.sent_model, l.meter, l.quantity, l.optional,
        p.charge_rate_id as rate_id, p.charge_unit_price as unit_price, p.charge_effective_from as rate_effective_from, p.priced_as,
        case when p.list_rate_id is null and c.route = 'official' then p.charge_rate_id else p.list_rate_id end as list_rate_id,
        case when p.list_rate_id is null and c.route = 'official' then p.charge_unit_price else p.list_unit_price end as list_unit_price
    from billed_lines l
    join prices p
        on coalesce(l.channel, '') = p.channel and coalesce(l.sent_model, '') = p.model and l.meter = p.meter
        and coalesce(l.service_tier, '') = p.service_tier and l.input_band = p.input_band and l.at_or_after = p.at_or_after
        and coalesce(l.week_minute, -1) = p.week_minute
    left join book_channel c on l.channel = c.name
    where not l.optional or p.charge_rate_id is not null
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
priced_lines as (
    select
        *,
        cast(cast(quantity as decimal(18,0)) * unit_price as decimal(38,12)) as amount,
        cast(cast(quantity as decimal(18,0)) * list_unit_price as decimal(38,12)) as list_amount
    from lines
)
select * from priced_lines
