-- One row is one try of a call whose result comes later (a response in the background, a video, a batch, a run), of a poll for it,
-- or of a download of its output, and what is due for it. Of all that shows one job's usage (one channel, one id) one is charged:
-- of a batch the download, whose lines tell each request's model, unless it holds fewer than the batch says were completed and
-- the batch tells its usage itself; of others the first. The asking call, the other polls, downloads and later reads are free,
-- and name what they repeat. A job whose end was never seen is not known. A stored object is a poll where it says that it ran in
-- the background, or where the call that asked for it had no result of its own. A file that is no batch's output is free.
-- check: standing in ('result', 'free', 'unknown') and (standing = 'result' or reason is not null)
-- check: unique raw_id, raw_ordinal
with downloads as (
    select raw_id, raw_ordinal, cast(count(*) as bigint) as lines, cast(sum(case when succeeded then 1 else 0 end) as bigint) as succeeded
    from batch_lines group by raw_id, raw_ordinal
),
seen as (
    select
        s.raw_id, s.raw_ordinal, s.request_id, s.received_at, s.channel, i.job_id, i.is_known, s.job, s.billing, s.sent_model, s.served_model,
        s.endpoint like '%batches%' as is_batch,
        lower(coalesce(json_extract_string(s.facts, '$.status'), json_extract_string(s.facts, '$.processing_status'), '')) as state,
        try_cast(coalesce(json_extract_string(s.facts, '$.request_counts.completed'), json_extract_string(s.facts, '$.request_counts.succeeded')) as bigint) as completed,
        coalesce(json_extract_string(s.facts, '$.background'), '') = 'true' as is_background,
        coalesce(v.is_reported, false) or v.fault is not null as has_usage, v.fault is not null as is_faulty,
        coalesce(d.lines, 0) as lines, coalesce(d.succeeded, 0) as succeeded, n.reason as note, coalesce(n.is_other, false) as is_other
    from steps s
    join usage_verdicts v on s.raw_id = v.raw_id and s.raw_ordinal = v.raw_ordinal
    join job_ids i on s.raw_id = i.raw_id and s.raw_ordinal = i.raw_ordinal
    left join downloads d on s.raw_id = d.raw_id and s.raw_ordinal = d.raw_ordinal
    left join output_note n on s.raw_id = n.raw_id and s.raw_ordinal = n.raw_ordinal
    where s.outcome = 'ok' or (s.job <> 'asked' and s.http_status between 200 and 299)
),
stated as (
    select
        *,
        state in ('queued', 'in_progress', 'validating', 'finalizing', 'cancelling', 'canceling', 'requires_action') as is_open,
        state in ('completed', 'incomplete', 'ended')
            or (state in ('expired', 'cancelled', 'canceled') and coalesce(completed, 0) > 0) as is_done
    from seen
),
asked as (
    select channel, job_id, min(request_id) as request_id, max(sent_model) as sent_model,
        max(case when is_open or billing = 'poll' then 1 else 0 end) = 1 as is_pending,
        max(case when not is_open and has_usage then 1 else 0 end) = 1 as has_result
    from stated where job = 'asked' and job_id is not null group by channel, job_id
),
told as (
    select channel, job_id, max(completed) as completed, max(served_model) as served_model, max(case when is_batch then 1 else 0 end) = 1 as is_batch
    from stated where job in ('asked', 'poll') and job_id is not null group by channel, job_id
),
shown as (
    select
        t.*, coalesce(a.sent_model, t.served_model, k.served_model) as told_model,
        case when t.job = 'output' then t.has_usage
            else not t.is_open and t.has_usage
                and (t.job <> 'stored' or t.is_background or coalesce(a.is_pending and not a.has_result, false))
        end as is_result,
        case
            when t.job = 'output' and not t.is_faulty and t.succeeded >= coalesce(k.completed, 0) then 1
            when t.job <> 'output' then 2
            when not t.is_faulty then 3
            else 4
        end as rank
    from stated t
    left join asked a on t.channel = a.channel and t.job_id = a.job_id
    left join told k on t.channel = k.channel and t.job_id = k.job_id
),
-- what was charged for it, in a month that is closed or else here
settled as (
    select channel, job_id, min(request_id) as request_id from settled_try where is_charged and job_id is not null group by channel, job_id
),
winners as (
    select channel, job_id, raw_id, raw_ordinal, request_id, job
    from shown where is_result and job_id is not null
    qualify row_number() over (partition by channel, job_id order by rank, received_at, raw_id, raw_ordinal) = 1
),
firsts as (
    select
        coalesce(w.channel, c.channel) as channel, coalesce(w.job_id, c.job_id) as job_id,
        case when c.request_id is null then w.raw_id end as raw_id, case when c.request_id is null then w.raw_ordinal end as raw_ordinal,
        case when c.request_id is null then w.job end as job, coalesce(c.request_id, w.request_id) as request_id
    from winners w full join settled c on w.channel = c.channel and w.job_id = c.job_id
),
ends as (
    select channel, job_id, max(state) as state, max(case when is_done then 1 else 0 end) = 1 as is_done, max(completed) as completed
    from shown where not is_open and job in ('poll', 'stored') and job_id is not null group by channel, job_id
),
unread as (
    select channel, job_id, min(request_id) as request_id, min(note) as note
    from shown where job = 'output' and note is not null group by channel, job_id
),
originals as (
    -- an answer that came at once, and was charged then
    select channel, response_id as job_id, min(request_id) as request_id
    from steps where billing = 'usage' and outcome = 'ok' and response_id <> '' group by channel, response_id
    union all
    select channel, response_id, min(request_id) from settled_try where is_charged and response_id <> '' group by channel, response_id
),
first_originals as (
    select channel, job_id, min(request_id) as request_id from originals group by channel, job_id
),
joined as (
    select
        s.*, f.raw_id as first_raw_id, f.raw_ordinal as first_raw_ordinal, f.job as first_job, f.request_id as first_request_id,
        e.state as end_state, coalesce(e.is_done, s.is_done) as has_ended, coalesce(e.state, s.state) as last_state,
        coalesce(e.completed, s.completed) as last_completed,
        u.request_id as unread_request_id, u.note as unread_note, o.request_id as original_request_id
    from shown s
    left join firsts f on s.channel = f.channel and s.job_id = f.job_id
    left join ends e on s.channel = e.channel and s.job_id = e.job_id
    left join unread u on s.channel = u.channel and s.job_id = u.job_id
    left join first_originals o on s.channel = o.channel and s.job_id = o.job_id
),
decided as (
    select
        *,
        case
            when is_result and job = 'asked' and billing = 'usage' then 'result'
            when is_result and first_request_id is null then 'result'
            when is_result and first_raw_id = raw_id and first_raw_ordinal = raw_ordinal then 'result'
            when is_result and job = 'output' and first_job = 'output' then 'result'
            when job = 'asked' and not is_open and billing = 'usage' and first_request_id is null then 'result'
            when first_request_id is not null then 'free'
            when job = 'output' and note is not null and is_known then 'unknown'
            when job = 'output' then 'free'
            when is_batch and not is_open and last_completed = 0 then 'free'
            when job = 'asked' and has_ended then 'unknown'
            when job = 'asked' and (end_state is not null or last_state in ('failed', 'cancelled', 'canceled', 'expired')) then 'free'
            when job = 'asked' then 'unknown'
            when job = 'poll' and has_ended and is_done then 'unknown'
            else 'free'
        end as standing
    from joined
),
jobs as (
    select
        raw_id, raw_ordinal, told_model as model, standing,
        case
            when standing = 'result' then null
            when first_request_id is not null and (has_usage or lines > 0) and not is_open then 'repeat of ' || first_request_id
            when first_request_id is not null then 'its result is charged once, with ' || first_request_id
            when job = 'output' and is_known and note is not null then 'its usage is not told but in this output, and ' || note
            when job = 'output' and is_other then 'a stored file, and no output of a batch'
            when job = 'output' and note is not null then 'a file of which no batch is known; ' || note
            when job = 'output' then 'no request of it succeeded'
            when job = 'stored' and not is_background and original_request_id is not null then 'repeat of ' || original_request_id
            when standing = 'unknown' and is_batch and has_ended and unread_note is not null
            then 'it ended and told no usage; its output was downloaded with ' || unread_request_id || ', but ' || unread_note
            when standing = 'unknown' and is_batch and has_ended then 'it ended and told no usage, and its output was never downloaded'
            when standing = 'unknown' and has_ended then 'it ended, and its usage was not told'
            when standing = 'unknown' then 'its result was never seen'
            when is_batch and not is_open and last_completed = 0 then 'none of its requests was completed'
            when job = 'asked' then 'it ended ' || last_state || ' without usage'
            when is_open then 'it has not ended'
            when job = 'stored' then 'a stored object: it was billed when it was made'
            else 'it shows no usage'
        end as reason
    from decided
)
select * from jobs
