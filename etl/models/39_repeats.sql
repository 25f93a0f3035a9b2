-- One row is one try whose answer the vendor gave a second time: the same channel, path, credential, idempotency key and body, and
-- the same id of the answer. The try that was answered whole, else the first, is charged; the others repeat it. Two whole answers
-- with different usage are two, for an id that repeats by accident proves nothing; and without a key nothing is taken for a repeat.
-- Of a try that was charged before (settled_try) the channel, the key and the id are at hand.
-- check: repeats_request_id is not null and repeats_raw_id is not null
-- check: unique raw_id, raw_ordinal
with answers as (
    select
        s.raw_id, s.raw_ordinal, s.request_id, s.outcome, s.opened_at, s.channel, s.response_id,
        cast(s.usage as varchar) as usage_text, json_extract_string(r.headers, '$."idempotency-key"') as idempotency_key,
        concat_ws(chr(31), s.channel, r.method, r.path, coalesce(r.credential, ''), coalesce(r.match_sha256, ''),
            json_extract_string(r.headers, '$."idempotency-key"'), s.response_id) as answer_key
    from steps s join received r on s.raw_id = r.raw_id
    where s.ordinal > 0 and s.billing = 'usage' and s.response_id <> '' and json_extract_string(r.headers, '$."idempotency-key"') <> ''
),
ranked as (
    select
        *,
        row_number() over (
            partition by answer_key order by case when outcome = 'ok' then 0 else 1 end, opened_at, raw_id, raw_ordinal
        ) as place
    from answers
),
firsts as (
    select * from ranked where place = 1
),
here as (
    select a.raw_id, a.raw_ordinal, f.request_id as repeats_request_id, f.raw_id as repeats_raw_id
    from ranked a join firsts f on a.answer_key = f.answer_key
    where a.place > 1 and (a.outcome <> 'ok' or a.usage_text is not distinct from f.usage_text)
),
settled as (
    select a.raw_id, a.raw_ordinal, min(t.request_id) as repeats_request_id, min(t.raw_request_id) as repeats_raw_id
    from answers a
    join settled_try t
        on a.channel = t.channel and a.response_id = t.response_id and t.is_charged
        and a.idempotency_key = t.idempotency_key
    group by a.raw_id, a.raw_ordinal
),
repeats as (
    select * from settled
    union all
    select * from here where (raw_id, raw_ordinal) not in (select raw_id, raw_ordinal from settled)
)
select * from repeats
