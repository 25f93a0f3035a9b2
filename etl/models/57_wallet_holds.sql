-- One row is one hold: an amount of a bucket that is reserved from one instant until another, without moving. It ends by itself at
-- its instant, or earlier where somebody released it. Holds that were placed in closed months stand here again.
-- check: amount > 0 and placed_at < held_until and ends_at <= held_until and placed_at <= ends_at
-- check: unique hold_id
with placed as (
    select
        event_id as hold_id, wallet, bucket, currency, amount, e.at as placed_at, held_until, logical_id as request_id,
        actor, reason, reference, p.period, cast(null as timestamp) as released_at, cast(null as varchar) as released_period
    from admin_events e join book_period p on e.at >= p.starts_at and e.at < p.ends_at
    where event = 'wallet_hold' and fault is null
    union all
    select
        hold_id, wallet, bucket, currency, amount, placed_at, held_until, request_id,
        actor, reason, reference, period, released_at, released_period
    from closed_hold
),
releases as (
    select e.names_hold as hold_id, e.at as released_at, p.period as released_period
    from admin_events e join book_period p on e.at >= p.starts_at and e.at < p.ends_at
    where e.event = 'wallet_release' and e.fault is null
    qualify row_number() over (partition by e.names_hold order by e.at, e.event_id) = 1
)
select
    h.hold_id, h.wallet, h.bucket, h.currency, h.amount, h.placed_at, h.held_until,
    coalesce(h.released_at, r.released_at) as released_at,
    least(h.held_until, coalesce(h.released_at, r.released_at, h.held_until)) as ends_at,
    h.request_id, h.actor, h.reason, h.reference, h.period, coalesce(h.released_period, r.released_period) as released_period
from placed h left join releases r on h.hold_id = r.hold_id
