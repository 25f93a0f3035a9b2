-- One row is one request as a door recorded it, once, with the endpoint it asked for. A request of which only attempts or
-- responses were found has a row too, made from them, so that their money is not lost with its record. heading numbers the set of
-- names that its headers have (15_headings.sql).
-- check: raw_id is not null and received_at is not null and endpoint is not null
-- check: billing in ('usage', 'poll', 'free', 'unknown')
-- check: unique raw_id
with repeated as (
    select request_id, count(*) as copies from raw_request group by request_id having count(*) > 1
),
recorded as (
    select r.*, cast(1 as bigint) as copies from raw_request r anti join repeated d on r.request_id = d.request_id
    union all
    select r.*, d.copies from raw_request r join repeated d on r.request_id = d.request_id
    qualify row_number() over (partition by r.request_id order by r.writer, r.seq) = 1
),
strays as (
    select request_id, opened_at as seen_at, url, sent_model
    from raw_attempt where request_id not in (select request_id from raw_request)
    union all
    select request_id, closed_at as seen_at, cast(null as varchar) as url, cast(null as varchar) as sent_model
    from raw_response where request_id not in (select request_id from raw_request)
),
lost as (
    select
        request_id, min(seen_at) as received_at, min(url) as url, coalesce(regexp_extract(min(url), '^[a-z]+://[^/]+(/.*)$', 1), '') as path,
        min(sent_model) as sent_model
    from strays group by request_id
),
requests as (
    select
        request_id as raw_id, writer, seq, copies, door, received_at, method, host, path,
        headers, credential, api_model, stream, body_facts, body_state, match_sha256,
        try_cast(json_extract_string(headers, '$."x-stainless-retry-count"') as integer) as sdk_retry,
        json_extract_string(headers, '$."user-agent"') as user_agent
    from recorded
    union all
    select
        request_id, null, null, 0, 'unknown', received_at, 'POST', regexp_extract(url, '^[a-z]+://([^/]+)', 1),
        path,
        '{}', null, sent_model, null, null, 'none', null, null, null
    from lost
),
-- what is asked of few values is asked of the records, so that no second copy of the requests has to be held
paths as (
    select method, path from raw_request
    union
    select 'POST', path from lost
),
endpoint_of as (
    select p.method, p.path, e.endpoint, e.billing, e.job, e.tier, e.expects_output, e.owes
    from paths p join table_endpoints e on p.method = e.method and rtrim(p.path, '/') like e.suffix
    qualify row_number() over (partition by p.method, p.path order by e.priority, length(e.suffix) desc, e.suffix) = 1
),
sets as (
    select names, row_number() over (order by names) as heading
    from (select array_to_string(json_keys(headers), chr(31)) as names from raw_request union select '')
),
received as (
    select
        r.*, s.heading,
        coalesce(e.endpoint, r.path) as endpoint,
        coalesce(e.billing, 'unknown') as billing,
        e.job, e.tier as endpoint_tier,
        coalesce(e.expects_output, false) as expects_output,
        e.owes
    from requests r
    left join sets s on array_to_string(json_keys(r.headers), chr(31)) = s.names
    left join endpoint_of e on r.method = e.method and r.path = e.path
)
select * from received
