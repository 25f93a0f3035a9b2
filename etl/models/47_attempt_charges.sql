-- One row is one try with what it costs: the sum of its lines, null while any of them has no price, and where it ended:
-- charged, free for a reason, or in suspense for a reason. known is the priced part of a charge that is not known whole;
-- rounding is how far the vendor's rounding moved it.
-- check: disposition in ('charged', 'free', 'suspense') and known is not null
-- check: (charge is null) = (disposition = 'suspense') and (reason is null) = (disposition = 'charged')
-- check: select count(*) from attempt_charges having count(*) is distinct from (select count(*) from steps)
with sums as (
    select
        raw_id, raw_ordinal,
        count(*) as lines,
        sum(case when unit_price is null then 1 else 0 end) as missing,
        cast(sum(amount) as decimal(38,12)) as amount,
        cast(coalesce(sum(amount) filter (where meter = 'rounding'), 0) as decimal(38,12)) as rounding,
        sum(case when list_amount is null then 1 else 0 end) as list_missing,
        cast(sum(list_amount) as decimal(38,12)) as list_amount,
        min(case when unit_price is null then meter end) as missing_meter,
        min(case when unit_price is null then no_rate_for end) as no_rate_for
    from priced_lines group by raw_id, raw_ordinal
),
summed as (
    select
        b.*,
        coalesce(s.lines, 0) as lines,
        coalesce(s.missing, 0) as missing,
        s.missing_meter, s.no_rate_for,
        cast(coalesce(s.amount, 0) as decimal(38,12)) as known,
        cast(coalesce(s.rounding, 0) as decimal(38,12)) as rounding,
        case when coalesce(s.list_missing, 0) = 0 and b.rule not in ('unpriced', 'unknown')
            then cast(coalesce(s.list_amount, 0) as decimal(38,12)) end as list_charge
    from billing b left join sums s on b.raw_id = s.raw_id and b.raw_ordinal = s.raw_ordinal
),
attempt_charges as (
    select
        request_id, raw_id, raw_ordinal, ordinal, is_only, channel, outcome, vendor_charge, rule, bucket, route, policy_id, policy, charge as policy_charge,
        known, rounding, list_charge,
        case when rule not in ('unpriced', 'unknown') and missing = 0 then known end as charge,
        case
            when rule in ('unpriced', 'unknown') or missing > 0 then 'suspense'
            when lines > 0 then 'charged'
            else 'free'
        end as disposition,
        case
            when rule in ('unpriced', 'unknown') then reason
            when missing > 0 and no_rate_for is not null then 'no exchange rate for ' || no_rate_for
            when missing > 0 then 'no price for ' || missing_meter
            when lines > 0 then null
            when rule in ('free', 'nothing') then reason
            else 'the usage is zero'
        end as reason
    from summed
)
select * from attempt_charges
