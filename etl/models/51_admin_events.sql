-- One row is one recorded event, once; of wallet entries with their amounts read, and with a fault where they cannot be booked.
-- All refunds of a request, in order, may together give a bucket back what the request took from it: the first that goes
-- beyond is a fault, and so is every later one. What the command asks of who makes an entry is asked here again, of the record.
-- check: event_id is not null and "at" is not null
-- check: unique event_id
with events as (
    select *, json_extract_string(facts, '$.amount') as amount_text, coalesce(json_extract_string(facts, '$.bonus'), '0') as bonus_text
    from raw_event
    qualify row_number() over (partition by event_id order by writer, seq) = 1
),
entries as (
    select
        events.*,
        event in ('wallet_topup', 'wallet_adjust', 'wallet_refund', 'wallet_expire', 'wallet_transfer') as moves_money,
        case
            when regexp_matches(coalesce(amount_text, ''), '^-?[0-9]+(\.[0-9]{1,12})?$') and abs(try_cast(amount_text as decimal(38,12))) < entry_limit
                then try_cast(amount_text as decimal(38,12))
        end as amount,
        case when regexp_matches(bonus_text, '^[0-9]+(\.[0-9]{1,12})?$') then try_cast(bonus_text as decimal(38,12)) end as bonus,
        json_extract_string(facts, '$.wallet') as wallet,
        json_extract_string(facts, '$.bucket') as bucket,
        json_extract_string(facts, '$.second') as second,
        json_extract_string(facts, '$.to_wallet') as to_wallet,
        json_extract_string(facts, '$.to_bucket') as to_bucket,
        try_cast(json_extract_string(facts, '$.until') as timestamp) as held_until,
        json_extract_string(facts, '$.hold') as names_hold,
        json_extract_string(facts, '$.currency') as stated_currency,
        coalesce(request_id, json_extract_string(facts, '$.request_id')) as about_id
    from events cross join (select entry_limit from setting)
),
named as (
    select about_id, min(request_id) as request_id
    from (
        select e.about_id, m.request_id from entries e join members m on e.about_id = m.raw_id
        union all
        select e.about_id, c.request_id from entries e join known_request c on e.about_id = c.raw_id
    ) group by about_id
),
charged as (
    select request_id, wallet, bucket, -sum(amount) as amount
    from charge_legs where wallet is not null and kind = 'charge' group by request_id, wallet, bucket
    union all
    select request_id, wallet, bucket, charged - refunded as amount from closed_charge
),
refunds as (
    select
        e.event_id, c.amount as limit_amount,
        sum(e.amount) over (
            partition by n.request_id, e.wallet, e.bucket order by e.at, e.event_id rows between unbounded preceding and current row
        ) as so_far
    from entries e
    join named n on e.about_id = n.about_id
    left join charged c on n.request_id = c.request_id and e.wallet = c.wallet and e.bucket = c.bucket
    where e.event = 'wallet_refund' and e.amount >= 0
),
holds as (
    select event_id as hold_id, held_until as ends_at from entries where event = 'wallet_hold'
    union all
    select hold_id, ends_at from closed_hold
),
admin_events as (
    select
        e.*,
        n.request_id as logical_id,
        coalesce(e.stated_currency, s.currency) as currency,
        case
            when e.event in ('wallet_transfer', 'wallet_hold', 'wallet_release') and (e.actor is null or e.reason is null or e.reference is null)
                then 'it lacks an actor, a reason or a reference'
            when e.event = 'wallet_release' and h.hold_id is null then 'it names no hold that is recorded'
            when e.event = 'wallet_release' and e.at >= h.ends_at then 'its hold had ended before'
            when e.event = 'wallet_hold' and (e.held_until is null or e.held_until <= e.at) then 'it does not end after it begins'
            when not e.moves_money and e.event <> 'wallet_hold' then null
            when e.wallet is null or e.bucket is null then 'it names no wallet or no bucket'
            when e.amount is null then 'its amount is no decimal of at most 12 places below ' || s.entry_limit
            when e.bonus is null or e.bonus > greatest(e.amount, 0) then 'its bonus does not lie between zero and its amount'
            when coalesce(e.stated_currency, s.currency) <> s.currency then 'its currency is not that of the book'
            when e.event in ('wallet_transfer', 'wallet_hold') and e.amount <= 0 then 'its amount is not above zero'
            when e.event = 'wallet_transfer' and (e.to_wallet is null or e.to_bucket is null) then 'it names no wallet or no bucket to go to'
            when e.event = 'wallet_transfer' and e.wallet = e.to_wallet and e.bucket = e.to_bucket then 'it goes where it comes from'
            when e.event <> 'wallet_adjust' and e.amount < 0 then 'its amount is below zero'
            when e.event = 'wallet_adjust' and (e.actor is null or e.reason is null or e.reference is null)
                then 'it lacks an actor, a reason or a reference'
            when e.event = 'wallet_adjust' and abs(e.amount) > s.second_person_above and coalesce(trim(e.second), '') = ''
                then 'above ' || s.second_person_above || ' it needs a second person, and none agreed'
            when e.event = 'wallet_adjust' and abs(e.amount) > s.second_person_above and lower(trim(e.second)) = lower(trim(coalesce(e.actor, '')))
                then 'above ' || s.second_person_above || ' it needs a second person, and it names the first again'
            when e.event = 'wallet_refund' and e.about_id is not null and n.request_id is null then 'it names a request that is not recorded'
            when e.event = 'wallet_refund' and e.about_id is not null and r.limit_amount is null then 'its request was charged nothing in this wallet and bucket'
            when e.event = 'wallet_refund' and r.so_far > r.limit_amount then 'with it the refunds of its request exceed what it was charged'
        end as fault,
        'tx_' || substr(sha256('event' || chr(31) || e.event_id), 1, 32) as transaction_id
    from entries e
    cross join setting s
    left join named n on e.about_id = n.about_id
    left join refunds r on e.event_id = r.event_id
    left join holds h on e.names_hold = h.hold_id
)
select * from admin_events
