-- One row is one try: whether the vendor's usage can be used, why not, and whether a recount could stand in for it.
-- A recount is wanted where tokens decide the charge and the vendor reported none; a faulty report is never replaced.
-- Where the vendor reported the prompt alone (a stream on Anthropic's surface that broke before its message_delta, Fireworks' headers)
-- the output is wanted where the output seen decides the charge.
-- check: is_reported is not null and wants_recount is not null and wants_output is not null
-- check: not (wants_recount and wants_output) and (is_reported or not wants_output)
-- check: select count(*) from usage_verdicts having count(*) is distinct from (select count(*) from steps)
with reported as (
    select
        raw_id, raw_ordinal,
        max(case when part = 'tokens' then 1 else 0 end) = 1 as has_tokens,
        min(fault) as fault
    from usage_reported group by raw_id, raw_ordinal
),
stubs as (
    select distinct raw_id, raw_ordinal from usage_objects where part = 'tokens' and tells_prompt
),
patterns as (
    select s.sent_model, e.encoding, e.approximate
    from (select distinct sent_model from steps) s join table_encodings e on lower(coalesce(s.sent_model, '')) like e.pattern
    qualify row_number() over (partition by s.sent_model order by e.priority, length(e.pattern) desc, e.pattern) = 1
),
usage_verdicts as (
    select
        s.raw_id, s.raw_ordinal, s.endpoint, s.sent_model, s.opened_at, s.received_at, s.closed_at,
        s.outcome = 'ok' as is_whole,
        coalesce(s.body_state, 'none') <> 'none' as is_answered,
        coalesce(r.has_tokens, false) and r.fault is null as is_reported,
        r.fault,
        e.encoding, e.approximate,
        not coalesce(r.has_tokens, false)
            and r.fault is null
            and s.raw_ordinal > 0
            and s.billing = 'usage'
            -- a job that is still under way is charged with its result; a stream of a call in the foreground was that result
            and not (
                s.job is not null and coalesce(json_extract_string(s.facts, '$.status'), '') in ('queued', 'in_progress')
                and (s.outcome = 'ok' or coalesce(json_extract_string(s.body_facts, '$.background'), json_extract_string(s.facts, '$.background'), '') = 'true')
            )
            and (s.outcome = 'ok' or coalesce(p.charge in ('input', 'observed'), false)) as wants_recount,
        b.raw_id is not null
            and r.fault is null
            and s.owes like '%output%'
            and s.raw_ordinal > 0
            and s.billing = 'usage'
            and (s.outcome = 'ok' or coalesce(p.charge = 'observed', false)) as wants_output
    from steps s
    left join reported r on s.raw_id = r.raw_id and s.raw_ordinal = r.raw_ordinal
    left join stubs b on s.raw_id = b.raw_id and s.raw_ordinal = b.raw_ordinal
    left join policies p on s.raw_id = p.raw_id and s.raw_ordinal = p.raw_ordinal
    left join patterns e on s.sent_model is not distinct from e.sent_model
)
select * from usage_verdicts
