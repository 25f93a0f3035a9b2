-- One row is one SDK retry and the request it repeats: same credential, method, host, path, body, user agent and idempotency key,
-- counted one less, failed, and ended before the retry began, at most a day earlier. Each failed end is an opening parenthesis
-- and each retry's start a closing one; they are matched as parentheses are, so that two calls with equal bodies stay two.
-- A client that does not count its tries is followed by its idempotency key: the next request with the same key and body
-- that begins after a failed one ended repeats it. Without a count and without a key nothing is linked.
-- check: raw_id is not null and earlier_id is not null and raw_id is distinct from earlier_id
-- check: unique raw_id
-- check: unique earlier_id
with last_tries as (
    select raw_id, outcome from outcomes
    qualify row_number() over (partition by raw_id order by raw_ordinal desc) = 1
),
ends as (
    select raw_id, max(coalesce(client_gone_at, closed_at, opened_at)) as ended_at from outcomes group by raw_id
),
calls as (
    select
        r.raw_id, r.received_at, r.sdk_retry, t.outcome, json_extract_string(r.headers, '$."idempotency-key"') as idempotency_key,
        coalesce(e.ended_at, r.received_at) as ended_at,
        concat_ws(chr(31), coalesce(r.credential, ''), r.method, r.host, r.path, coalesce(r.match_sha256, ''),
            coalesce(r.user_agent, ''), coalesce(json_extract_string(r.headers, '$."idempotency-key"'), '')) as call_key
    from received r
    left join last_tries t on r.raw_id = t.raw_id
    left join ends e on r.raw_id = e.raw_id
    where r.raw_id not in (select twin_id from twins)
),
retried_keys as (
    select distinct call_key from calls where sdk_retry > 0
),
marks as (
    select call_key, sdk_retry + 1 as level, ended_at as marked_at, 1 as step, raw_id
    from calls where call_key in (select call_key from retried_keys) and outcome is distinct from 'ok' and sdk_retry >= 0
    union all
    select call_key, sdk_retry as level, received_at as marked_at, -1 as step, raw_id
    from calls where sdk_retry > 0
),
nested as (
    select
        *,
        sum(step) over (partition by call_key, level order by marked_at, step desc, raw_id rows between unbounded preceding and current row) as depth_after
    from marks
),
levelled as (
    select *, case when step = 1 then depth_after else depth_after + 1 end as depth from nested
),
paired as (
    select
        raw_id, marked_at, step,
        lag(raw_id) over (partition by call_key, level, depth order by marked_at, step desc, raw_id) as earlier_id,
        lag(step) over (partition by call_key, level, depth order by marked_at, step desc, raw_id) as earlier_step,
        lag(marked_at) over (partition by call_key, level, depth order by marked_at, step desc, raw_id) as earlier_at
    from levelled
),
counted as (
    select raw_id, earlier_id from paired
    where step = -1 and earlier_step = 1 and marked_at <= earlier_at + interval 24 hours
),
keyed as (
    select
        raw_id, sdk_retry, received_at,
        lag(raw_id) over (partition by call_key order by received_at, raw_id) as earlier_id,
        lag(outcome) over (partition by call_key order by received_at, raw_id) as earlier_outcome,
        lag(ended_at) over (partition by call_key order by received_at, raw_id) as earlier_ended_at
    from calls where idempotency_key <> ''
),
links as (
    select raw_id, earlier_id from counted
    union all
    select raw_id, earlier_id from keyed
    where earlier_id is not null and coalesce(sdk_retry, 0) = 0 and earlier_outcome is distinct from 'ok'
        and received_at >= earlier_ended_at and received_at <= earlier_ended_at + interval 24 hours
        and earlier_id not in (select earlier_id from counted)
)
select * from links
