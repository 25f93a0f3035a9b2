-- One row is one recorded reversal of a whole transaction, with a fault where it cannot be booked. A transaction is reversed once;
-- a charge that is in suspense or that was refunded, and a reversal itself, are not reversed.
-- check: event_id is not null and (fault is not null or reverses is not null)
-- check: unique reverses where fault is null
with asked as (
    select event_id, "at", actor, reason, reference, json_extract_string(facts, '$.transaction') as reverses
    from admin_events where event = 'wallet_reverse'
),
legs as (
    select transaction_id, kind, request_id, bucket, service_at, cast(null as varchar) as reverses from charge_legs
    union all
    select transaction_id, kind, request_id, bucket, service_at, cast(null as varchar) as reverses from admin_legs
    union all
    select transaction_id, kind, request_id, bucket, service_at, reverses from closed_leg
),
transactions as (
    select transaction_id, min(kind) as kind, min(request_id) as request_id, min(bucket) as bucket, min(service_at) as service_at
    from legs where bucket is not null group by transaction_id
),
refunded as (
    select distinct request_id, bucket from legs where kind = 'refund' and bucket is not null
),
reversed_before as (
    select distinct reverses from legs where reverses is not null
),
judged as (
    select
        a.*,
        t.kind as reversed_kind,
        case
            when a.actor is null or a.reason is null or a.reference is null then 'it lacks an actor, a reason or a reference'
            when t.transaction_id is null then 'it names no transaction that is booked'
            when t.kind = 'suspense' then 'it names a charge that is not known yet'
            when t.kind = 'reversal' then 'it names a reversal: what that took back is entered again instead'
            when a."at" < t.service_at then 'it is older than what it names'
            when t.kind = 'charge' and f.request_id is not null then 'the request that it names was refunded'
            when b.reverses is not null then 'what it names was reversed before'
        end as fault
    from asked a
    left join transactions t on a.reverses = t.transaction_id
    left join refunded f on t.request_id = f.request_id and t.bucket = f.bucket
    left join reversed_before b on a.reverses = b.reverses
),
placed as (
    select *, row_number() over (partition by reverses, fault is null order by "at", event_id) as place from judged
),
reversals as (
    select
        event_id, "at", actor, reason, reference, reverses, reversed_kind,
        case when fault is null and place > 1 then 'what it names was reversed before' else fault end as fault,
        'tx_' || substr(sha256('event' || chr(31) || event_id), 1, 32) as transaction_id
    from placed
)
select * from reversals
