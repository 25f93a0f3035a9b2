-- One row is one try upstream: what was journaled before its first byte left, and how it ended if that was recorded.
-- A reply in brotli, which the proxy does not decode, tells what was read of it afterwards; is_unread: it has a body, and nothing could be.
-- is_words: its body could be decoded, says that it is text or does not say what it is, and is no JSON and no stream.
-- heading numbers the set of names that the reply's headers have (15_headings.sql).
-- Ordinal 0 is no try; it has a row only where it is all there is of a request: the proxy refused it before any try.
-- check: raw_id is not null and raw_ordinal is not null and opened_at is not null
-- check: unique raw_id, raw_ordinal
with opened_twice as (
    select request_id, ordinal from raw_attempt group by request_id, ordinal having count(*) > 1
),
opened as (
    select a.* from raw_attempt a anti join opened_twice d on a.request_id = d.request_id and a.ordinal = d.ordinal
    union all
    select a.* from raw_attempt a semi join opened_twice d on a.request_id = d.request_id and a.ordinal = d.ordinal
    qualify row_number() over (partition by a.request_id, a.ordinal order by a.writer, a.seq) = 1
),
closed_twice as (
    select request_id, ordinal from raw_response group by request_id, ordinal having count(*) > 1
),
closed as (
    select c.* from raw_response c anti join closed_twice d on c.request_id = d.request_id and c.ordinal = d.ordinal
    union all
    select c.* from raw_response c semi join closed_twice d on c.request_id = d.request_id and c.ordinal = d.ordinal
    qualify row_number() over (partition by c.request_id, c.ordinal order by c.writer, c.seq) = 1
),
-- what the proxy answered itself, and whether anything was sent
own_replies as (
    select request_id, http_status from raw_response where ordinal = 0
    qualify row_number() over (partition by request_id order by writer, seq) = 1
),
refused as (
    select request_id from raw_response where ordinal = 0
    union
    select request_id from raw_attempt where ordinal = 0
),
sent as (
    select request_id from raw_attempt where ordinal > 0 and request_id in (select request_id from refused)
    union
    select request_id from raw_response where ordinal > 0 and request_id in (select request_id from refused)
),
joined as (
    select
        coalesce(o.request_id, c.request_id) as raw_id,
        coalesce(o.ordinal, c.ordinal) as raw_ordinal,
        o.request_id is not null as is_opened,
        c.request_id is not null as is_closed,
        o.channel, o.role, o.reason, o.url, o.sent_model, c.headers_at,
        coalesce(o.opened_at, c.headers_at, c.closed_at) as opened_at,
        c.http_status, c.headers, c.content_type, c.ending, coalesce(c.error, n.error) as error,
        coalesce(c.error_object, n.error_object) as error_object,
        coalesce(c.error_event, false) or coalesce(n.error_object is not null and c.http_status < 400, false) as error_event,
        c.first_token_at, c.closed_at, c.client_gone_at,
        coalesce(c.streamed, false) or coalesce(n.streamed, false) as streamed,
        coalesce(c.terminal, n.terminal) as terminal, coalesce(n.body_state, c.body_state) as body_state,
        coalesce(lower(c.content_encoding) like '%br%' and c.body_bytes > 0, false) and n.raw_id is null as is_unread,
        coalesce(n.body_state, c.body_state) = 'opaque' and coalesce(c.content_type, 'text/plain') like 'text/%'
            and (n.body_state = 'opaque' or regexp_full_match(lower(coalesce(c.content_encoding, '')), '((x-)?gzip|deflate|zstd|identity|[, ])*')) as is_words,
        coalesce(n.output_seen, c.output_seen, false) as output_seen,
        coalesce(n.finish_reasons, array_to_string(c.finish_reasons, ' ')) as finish_reasons,
        array_to_string(c.notes, ' ') as notes,
        coalesce(c.response_id, n.response_id) as response_id,
        coalesce(c.served_model, n.served_model) as served_model,
        coalesce(c.service_tier, n.service_tier) as service_tier,
        case when n.raw_id is null then c.usage else n.usage end as usage,
        coalesce(c.facts, n.facts) as facts
    from opened o
    full join closed c on o.request_id = c.request_id and o.ordinal = c.ordinal
    left join reread n on c.request_id = n.raw_id and c.ordinal = n.raw_ordinal
),
sets as (
    select names, row_number() over (order by names) as heading
    from (select distinct array_to_string(json_keys(headers), chr(31)) as names from raw_response)
),
tries as (
    select j.*, s.heading, o.http_status as own_status
    from joined j
    left join sets s on array_to_string(json_keys(j.headers), chr(31)) = s.names
    left join own_replies o on j.raw_id = o.request_id
    where j.raw_ordinal > 0 or j.raw_id not in (select request_id from sent)
)
select * from tries
