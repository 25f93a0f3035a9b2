-- One row is one recorded event, once; of wallet entries with their amounts read, and with a fault where they cannot be booked.
-- check: event_id is not null and "at" is not null
-- check: select event_id from admin_events group by event_id having count(*) > 1
with events as (
    select *, json_extract_string(facts, '$.amount') as amount_text, coalesce(json_extract_string(facts, '$.bonus'), '0') as bonus_text
    from raw_event
    qualify row_number() over (partition by event_id order by writer, seq) = 1
),
entries as (
    select
        *,
        event in ('wallet_topup', 'wallet_adjust', 'wallet_refund', 'wallet_expire') as moves_money,
        case when regexp_matches(coalesce(amount_text, ''), '^-?[0-9]{1,24}(\.[0-9]{1,12})?$') then cast(amount_text as decimal(38,12)) end as amount,
        case when regexp_matches(bonus_text, '^[0-9]{1,24}(\.[0-9]{1,12})?$') then cast(bonus_text as decimal(38,12)) end as bonus,
        json_extract_string(facts, '$.wallet') as wallet,
        json_extract_string(facts, '$.bucket') as bucket,
        json_extract_string(facts, '$.currency') as stated_currency,
        coalesce(request_id, json_extract_string(facts, '$.request_id')) as about_id
    from events
),
admin_events as (
    select
        e.*,
        coalesce(e.stated_currency, s.currency) as currency,
        case
            when not e.moves_money then null
            when e.wallet is null or e.bucket is null then 'it names no wallet or no bucket'
            when e.amount is null then 'its amount is no decimal of at most 12 places'
            when e.bonus is null or e.bonus > greatest(e.amount, 0) then 'its bonus does not lie between zero and its amount'
            when coalesce(e.stated_currency, s.currency) <> s.currency then 'its currency is not that of the book'
            when e.event <> 'wallet_adjust' and e.amount < 0 then 'its amount is below zero'
        end as fault,
        'tx_' || substr(sha256('event' || chr(31) || e.event_id), 1, 32) as transaction_id
    from entries e cross join setting s
)
select * from admin_events
