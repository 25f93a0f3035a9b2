-- One row is one meter of one piece of one try that a free allowance covers: what is billed of it (the minimum and the step of the contract
-- counted), what of the allowance was used before, and how much is free. What a closed month took stays taken, whatever comes
-- late; else requests take their share in the order in which they began, then by their ids. The day or month is the vendor's.
-- check: quantity > 0 and used_before >= 0 and free_quantity >= 0 and free_quantity <= quantity and span is not null
-- check: unique raw_request_id, raw_ordinal, piece, meter
with due as (
    select
        l.request_id, l.raw_id, l.raw_ordinal, l.ordinal, l.piece, l.meter, b.received_at, p.allowance_id, p.allowance, p.pool,
        substr(
            strftime(b.received_at + coalesce(z.offset_minutes, 0) * interval 1 minute, '%Y-%m-%d'),
            1, case p.allowance_term when 'allowance_day' then 10 else 7 end
        ) as span,
        greatest(l.quantity, coalesce(p.minimum, 0)) as least_quantity, coalesce(p.step, 1) as step
    from billed_lines l
    join prices p
        on l.context = p.context and l.meter = p.meter and p.token_from = 0 and p.allowance_id is not null
    join billing b on l.raw_id = b.raw_id and l.raw_ordinal = b.raw_ordinal
    left join book_offset z on b.timezone = z.timezone and b.received_at >= z.starts_at and b.received_at < z.ends_at
    where not l.optional or p.charge_rate_id is not null
),
taken as (
    select
        request_id, raw_id, raw_ordinal, ordinal, piece, meter, received_at as used_at, allowance_id, allowance, pool, span,
        cast(least_quantity + (step - least_quantity % step) % step as bigint) as quantity, 1 as turn
    from due
    union all
    select
        null, raw_request_id, raw_ordinal, null, piece, meter, used_at, null, null, pool, span, quantity, case when is_closed then 0 else 1 end
    from prior_allowance_use
),
counted as (
    select
        *,
        cast(coalesce(sum(quantity) over (
            partition by pool, span order by turn, used_at, raw_id, raw_ordinal, piece, meter rows between unbounded preceding and 1 preceding
        ), 0) as bigint) as used_before
    from taken
),
allowance_use as (
    select
        request_id, ordinal as attempt_ordinal, meter, allowance_id as term_id, pool, span, quantity, used_before,
        greatest(0, least(quantity, allowance - used_before)) as free_quantity, used_at, raw_id as raw_request_id,
        cast(raw_ordinal as integer) as raw_ordinal, piece
    from counted where request_id is not null
)
select * from allowance_use
