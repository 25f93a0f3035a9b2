-- One row is one try of a call whose result comes later (asked, polled, read again, its output downloaded) and the vendor's id of
-- that job. A download is known by the batch whose answer named its file (is_known), else by the file itself.
-- check: is_known is not null
-- check: unique raw_id, raw_ordinal
with named as (
    select channel, response_id as job_id, json_extract_string(facts, '$.output_file_id') as file_id
    from steps where job in ('asked', 'poll') and response_id <> '' and facts is not null
    union
    select channel, response_id, json_extract_string(facts, '$.error_file_id')
    from steps where job in ('asked', 'poll') and response_id <> '' and facts is not null
    union
    select channel, job_id, unnest(string_split(result_files, ' ')) from settled_try where result_files is not null
),
files as (
    select channel, file_id, min(job_id) as job_id from named where file_id is not null group by channel, file_id
),
asked as (
    select
        s.raw_id, s.raw_ordinal, s.channel, s.job, s.response_id, s.facts,
        nullif(regexp_extract(rtrim(r.path, '/'), '/messages/batches/([^/]+)/results$', 1), '') as batch_id,
        nullif(regexp_extract(rtrim(r.path, '/'), '/files/([^/]+)/content$', 1), '') as file_id
    from steps s join received r on s.raw_id = r.raw_id
    where s.job is not null
),
job_ids as (
    select
        a.raw_id, a.raw_ordinal, a.channel, a.job,
        case when a.job = 'output' then coalesce(a.batch_id, f.job_id, a.file_id) else nullif(a.response_id, '') end as job_id,
        a.job = 'output' and (a.batch_id is not null or f.job_id is not null) as is_known,
        case when a.job <> 'output' then
            nullif(concat_ws(' ', json_extract_string(a.facts, '$.output_file_id'), json_extract_string(a.facts, '$.error_file_id')), '')
        end as result_files
    from asked a left join files f on a.channel = f.channel and a.file_id = f.file_id
)
select * from job_ids
