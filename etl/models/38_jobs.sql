-- One row is one try of a call whose result comes later (a response in the background, a video, a batch, a run) or of a poll for it,
-- and what is due for it. Of all that shows one job's usage (one channel, one id), the first is charged; the asking call, the
-- other polls and later reads are free. A job whose end was never seen is not known. A stored object is a poll where it says
-- that it ran in the background, or where the call that asked for it had no result of its own.
-- check: standing in ('result', 'free', 'unknown') and (standing = 'result' or reason is not null)
-- check: select raw_id, raw_ordinal from jobs group by all having count(*) > 1
with seen as (
    select
        s.raw_id, s.raw_ordinal, s.received_at, s.channel, s.response_id, s.job, s.billing, s.sent_model, s.served_model,
        coalesce(json_extract_string(s.facts, '$.status'), '') as state,
        coalesce(json_extract_string(s.facts, '$.background'), '') = 'true' as is_background,
        coalesce(v.is_reported, false) or v.fault is not null as has_usage
    from steps s join usage_verdicts v on s.raw_id = v.raw_id and s.raw_ordinal = v.raw_ordinal
    where s.job is not null and (s.outcome = 'ok' or s.job <> 'asked' and s.http_status between 200 and 299)
),
stated as (
    select *, state in ('queued', 'in_progress', 'validating', 'finalizing', 'cancelling', 'requires_action') as is_open from seen
),
asked as (
    select
        channel, response_id, max(sent_model) as sent_model,
        max(case when is_open or billing = 'poll' then 1 else 0 end) = 1 as is_pending,
        max(case when not is_open and has_usage then 1 else 0 end) = 1 as has_result
    from stated where job = 'asked' and response_id is not null group by channel, response_id
),
shown as (
    select t.*, a.sent_model as asked_model,
        not t.is_open and t.has_usage
            and (t.job <> 'stored' or t.is_background or coalesce(a.is_pending and not a.has_result, false)) as is_result
    from stated t left join asked a on t.channel = a.channel and t.response_id = a.response_id
),
firsts as (
    select channel, response_id, raw_id, raw_ordinal
    from shown where is_result and response_id is not null
    qualify row_number() over (partition by channel, response_id order by received_at, raw_id, raw_ordinal) = 1
),
ends as (
    select channel, response_id, max(state) as state
    from shown where not is_open and job <> 'asked' and response_id is not null group by channel, response_id
),
jobs as (
    select
        s.raw_id, s.raw_ordinal,
        coalesce(s.sent_model, s.asked_model, s.served_model) as model,
        case
            when s.is_result and (f.raw_id is null or s.job = 'asked' and s.billing = 'usage') then 'result'
            when s.is_result and f.raw_id = s.raw_id and f.raw_ordinal = s.raw_ordinal then 'result'
            when f.raw_id is not null then 'free'
            when s.job = 'asked' and not s.is_open and s.billing = 'usage' then 'result'
            when s.job = 'asked' and e.state in ('completed', 'incomplete') then 'unknown'
            when s.job = 'asked' and e.state is not null then 'free'
            when s.job = 'asked' and s.state in ('failed', 'cancelled', 'expired') then 'free'
            when s.job = 'asked' then 'unknown'
            when s.job = 'poll' and s.state in ('completed', 'incomplete') then 'unknown'
            else 'free'
        end as standing,
        case
            when f.raw_id = s.raw_id and f.raw_ordinal = s.raw_ordinal then null
            when f.raw_id is not null then 'its result is charged once, with ' || f.raw_id
            when s.job = 'asked' and coalesce(e.state, s.state) in ('completed', 'incomplete') or s.job = 'poll' and s.state in ('completed', 'incomplete')
            then 'it ended, and its usage was not told'
            when s.job = 'asked' and coalesce(e.state, s.state) in ('failed', 'cancelled', 'expired') then 'it ended ' || coalesce(e.state, s.state) || ' without usage'
            when s.job = 'asked' then 'its result was never seen'
            when s.is_open then 'it has not ended'
            when s.job = 'stored' then 'a stored object: it was billed when it was made'
            else 'it shows no usage'
        end as reason
    from shown s
    left join firsts f on s.channel = f.channel and s.response_id = f.response_id
    left join ends e on s.channel = e.channel and s.response_id = e.response_id
)
select * from jobs
