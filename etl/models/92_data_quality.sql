-- One row is one thing a person should know about the data; where blocks_close is true its month cannot close while it stands. What
-- a person acknowledged by its subject stands no longer, except for a price that is missing.
-- check: kind is not null and subject is not null and detail is not null and rows >= 0 and blocks_close is not null
with acknowledged as (
    select distinct json_extract_string(facts, '$.subject') as subject from admin_events where event in ('acknowledged', 'loss_acknowledged')
),
at_source as (
    select f.kind, p.period, f.subject, f.detail, f.rows, f.blocks_close
    from source_finding f
    left join book_period p on f.at >= p.starts_at and f.at < p.ends_at
    left join closed_finding c on f.kind = c.kind and f.subject = c.subject
    where c.subject is null
),
loss_events as (
    select
        'loss' as kind, p.period, e.event_id as subject,
        'the proxy reported traffic that it could not record: ' || coalesce(e.reason, e.facts) as detail,
        cast(coalesce(try_cast(json_extract_string(e.facts, '$.records') as bigint), 1) as bigint) as rows,
        true as blocks_close
    from admin_events e
    left join book_period p on e.at >= p.starts_at and e.at < p.ends_at
    where e.event = 'loss'
),
clock_steps as (
    select 'clock_step' as kind, p.period, e.event_id as subject, 'the clock stepped: ' || e.facts as detail, cast(1 as bigint) as rows, false as blocks_close
    from admin_events e left join book_period p on e.at >= p.starts_at and e.at < p.ends_at
    where e.event = 'clock_step'
),
unverified as (
    select
        'tls_unverified' as kind, p.period, e.event_id as subject,
        'the proxy started with a channel whose certificate it does not check: ' || coalesce(json_extract_string(e.facts, '$.channel'), '(unnamed)') as detail,
        cast(1 as bigint) as rows, false as blocks_close
    from admin_events e left join book_period p on e.at >= p.starts_at and e.at < p.ends_at
    where e.event = 'tls_unverified'
),
faulty_entries as (
    select 'faulty_entry' as kind, p.period, e.event_id as subject, e.event || ' is not booked: ' || e.fault as detail, cast(1 as bigint) as rows, true as blocks_close
    from admin_events e left join book_period p on e.at >= p.starts_at and e.at < p.ends_at
    where e.fault is not null
    union all
    select 'faulty_entry' as kind, p.period, r.event_id as subject, 'wallet_reverse is not booked: ' || r.fault as detail, cast(1 as bigint) as rows, true as blocks_close
    from reversals r
    left join book_period p on r.at >= p.starts_at and r.at < p.ends_at
    where r.fault is not null
),
reservations as (
    -- of no month: a hold moves nothing, and may last over the end of its own
    select
        'open_hold' as kind, cast(null as varchar) as period, h.hold_id as subject,
        h.amount || ' ' || h.currency || ' of ' || h.wallet || ':' || h.bucket || ' are held until '
            || strftime(h.held_until, '%Y-%m-%dT%H:%M:%S.%fZ') || ': ' || h.reason as detail,
        cast(1 as bigint) as rows, false as blocks_close
    from wallet_holds h join setting s on h.placed_at <= s.as_of and s.as_of < h.ends_at
),
never_tried as (
    select
        'no_attempt' as kind, period, raw_request_id as subject,
        'recorded, and neither sent upstream nor refused: the proxy stopped in between' as detail, cast(1 as bigint) as rows, false as blocks_close
    from dispositions where reason = 'nothing was sent upstream' and period in (select period from book_period)
),
copies as (
    select
        'duplicate' as kind, d.period, d.raw_request_id as subject,
        case when d.duplicate_of is null then 'seen more than once; the first is ' || d.writer || ' ' || d.seq else d.reason end as detail, d.duplicates as rows, false as blocks_close
    from dispositions d where d.duplicates > 0 and d.period in (select period from book_period)
),
unregistered as (
    select
        'unregistered_key' as kind, period, coalesce(api_key_id, '(no credential)') as subject,
        'no row of keys.toml was in force for it: register it with `tokenledger key add`' as detail, cast(count(*) as bigint) as rows, false as blocks_close
    from ledger where api_key_label = 'unregistered' and period in (select period from book_period) group by period, api_key_id
),
breaches as (
    select 'key_not_allowed' as kind, period, subject, detail, requests as rows, false as blocks_close from key_breaches
),
-- a price that is missing cannot be acknowledged; usage that nobody will ever know can
open_items as (
    select u.*, u.meter is null and a.subject is not null as is_acknowledged
    from unpriced u
    left join attempts t on u.request_id = t.request_id and u.attempt_ordinal = t.ordinal
    left join acknowledged a on t.raw_request_id || '/' || t.raw_ordinal = a.subject
    where u.period in (select period from book_period)
),
of_requests as (
    select kind, period, subject, detail, cast(sum(rows) as bigint) as rows, blocks_close
    from request_findings where period in (select period from book_period) group by kind, period, subject, detail, blocks_close
),
unpriced_models as (
    select
        'unpriced' as kind, period, coalesce(channel, '(none)') || ' ' || coalesce(upstream_model, '(no model)') || coalesce(' ' || meter, '') as subject,
        min(reason) || case when count(distinct reason) > 1 then ', among other reasons' else '' end as detail, cast(count(*) as bigint) as rows, bool_or(not is_acknowledged) as blocks_close
    from open_items group by period, channel, upstream_model, meter
),
balance_differences as (
    select 'balance_differs' as kind, period, subject, 'the vendor shows ' || vendor_amount || ', booked is ' || our_amount as detail,
        cast(1 as bigint) as rows, false as blocks_close
    from snapshot_figures where class = 'mismatch'
),
found as (
    select * from at_source
    union all select * from loss_events
    union all select * from clock_steps
    union all select * from unverified
    union all select * from faulty_entries
    union all select * from of_requests
    union all select * from reservations
    union all select * from never_tried
    union all select * from copies
    union all select * from unregistered
    union all select * from breaches
    union all select * from unpriced_models
    union all select * from balance_differences
)
select
    f.kind, f.period, f.subject, f.detail, f.rows,
    f.blocks_close and (a.subject is null or f.kind = 'unpriced') as blocks_close
from found f left join acknowledged a on f.subject = a.subject
