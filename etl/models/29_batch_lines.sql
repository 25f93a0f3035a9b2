-- One row is one line of a batch's output as one download had it. Of one request of one batch (its custom id and the id of its
-- answer), however often its file is downloaded, the first line that tells its success counts, unless the batch was charged in
-- a month that is closed.
-- check: counts is not null and line >= 1
-- check: unique raw_id, raw_ordinal, line
-- check: unique channel, job_id, custom_id, response_id where counts and custom_id is not null
with placed as (
    select
        l.*, i.channel, i.job_id, s.received_at,
        t.job_id is not null as is_settled,
        coalesce(l.custom_id, l.raw_id || ' ' || l.line) as request_key, coalesce(l.response_id, '') as answer_key
    from output_line l
    join steps s on l.raw_id = s.raw_id and l.raw_ordinal = s.raw_ordinal
    join job_ids i on l.raw_id = i.raw_id and l.raw_ordinal = i.raw_ordinal
    left join (select distinct channel, job_id from settled_try where is_charged and job_id is not null) t
        on i.channel = t.channel and i.job_id = t.job_id
),
ranked as (
    select
        *,
        row_number() over (
            partition by channel, job_id, succeeded, request_key, answer_key order by received_at, raw_id, raw_ordinal, line
        ) as place
    from placed
),
batch_lines as (
    select
        raw_id, raw_ordinal, line, channel, job_id, custom_id, response_id, model, path, usage, succeeded,
        succeeded and place = 1 and not is_settled as counts
    from ranked
)
select * from batch_lines
