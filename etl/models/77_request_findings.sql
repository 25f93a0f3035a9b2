-- One row is one request and one thing that a person should know about it; data_quality adds them up by subject.
-- check: request_id is not null and kind is not null and period is not null and subject is not null and detail is not null
-- check: rows >= 1 and blocks_close is not null
with open_holds as (
    select
        a.request_id, 'open_hold' as kind, a.raw_request_id || '/' || a.raw_ordinal as subject,
        'sent to ' || coalesce(a.channel, '(lost)') || ', and its end was never recorded' as detail, true as blocks_close
    from attempts a where a.outcome = 'unknown' and a.disposition = 'suspense'
),
assumed as (
    select
        a.request_id, 'assumed' as kind, a.channel || ' ' || c.service_tier as subject,
        'charged at the service tier that was asked for: the answer names none' as detail, false as blocks_close
    from conditions c
    join attempts a on c.raw_id = a.raw_request_id and c.raw_ordinal = a.raw_ordinal
    where c.tier_source = 'assumed' and a.disposition = 'charged'
    union all
    select
        a.request_id, 'assumed' as kind, a.channel || ' region ' || c.region as subject,
        'charged as processed in the region that was asked for: the answer names none' as detail, false as blocks_close
    from conditions c
    join attempts a on c.raw_id = a.raw_request_id and c.raw_ordinal = a.raw_ordinal
    where c.region_source = 'assumed' and a.disposition = 'charged'
),
models_told as (
    select distinct raw_id, raw_ordinal, model from usage_objects where piece <> '' and model is not null
    union
    select raw_id, raw_ordinal, model from jobs where standing = 'result' and model is not null
),
assumed_models as (
    select
        a.request_id, 'assumed_model' as kind, p.channel || ' ' || p.model as subject,
        'charged at the price of ' || p.priced_model || ': the answer names its dated model alone' as detail, false as blocks_close
    from priced_models p
    join models_told t on p.model = t.model
    join attempts a on t.raw_id = a.raw_request_id and t.raw_ordinal = a.raw_ordinal and p.channel = a.channel
    where p.is_assumed and a.disposition = 'charged'
),
batch_told as (
    select i.channel, i.job_id, max(u.input_tokens) as input_tokens, max(u.output_tokens) as output_tokens
    from job_ids i join usage_totals u on i.raw_id = u.raw_id and i.raw_ordinal = u.raw_ordinal
    where i.job in ('asked', 'poll') and u.usage_source <> 'none' group by i.channel, i.job_id
),
batch_listed as (
    select
        i.channel, i.job_id, min(s.request_id) as request_id, cast(sum(u.input_tokens) as bigint) as input_tokens,
        cast(sum(u.output_tokens) as bigint) as output_tokens
    from job_ids i
    join steps s on i.raw_id = s.raw_id and i.raw_ordinal = s.raw_ordinal
    join usage_totals u on i.raw_id = u.raw_id and i.raw_ordinal = u.raw_ordinal
    where i.job = 'output' and u.usage_source <> 'none' group by i.channel, i.job_id
),
batches_disagree as (
    select
        o.request_id, 'batch_disagrees' as kind, t.channel || ' ' || t.job_id as subject,
        'the batch tells ' || coalesce(t.input_tokens, 0) || ' input and ' || coalesce(t.output_tokens, 0) || ' output tokens, the lines of its output '
            || coalesce(o.input_tokens, 0) || ' and ' || coalesce(o.output_tokens, 0) || '; one of them is charged' as detail,
        false as blocks_close
    from batch_told t
    join batch_listed o on t.channel = o.channel and t.job_id = o.job_id
    where coalesce(t.input_tokens, 0) <> coalesce(o.input_tokens, 0) or coalesce(t.output_tokens, 0) <> coalesce(o.output_tokens, 0)
),
quarantined_usage as (
    select
        m.request_id, 'quarantined_usage' as kind, v.raw_id || '/' || v.raw_ordinal as subject, v.fault as detail, true as blocks_close
    from usage_verdicts v join members m on v.raw_id = m.raw_id where v.fault is not null
),
lost_records as (
    select
        m.request_id, 'lost_request_record' as kind, r.raw_id as subject,
        'attempts of this request were found, its own record was not' as detail, true as blocks_close
    from received r join members m on r.raw_id = m.raw_id where r.copies = 0
),
lost_opens as (
    select
        s.request_id, 'lost_attempt_record' as kind, s.raw_id || '/' || s.raw_ordinal as subject,
        'the end of this attempt was found, its beginning was not' as detail, true as blocks_close
    from steps s where s.raw_ordinal > 0 and not s.is_opened
),
unknown_endpoints as (
    select
        m.request_id, 'unknown_endpoint' as kind, r.method || ' ' || r.path as subject,
        'relayed and recorded; its usage is not understood' as detail, false as blocks_close
    from received r join members m on r.raw_id = m.raw_id where r.billing = 'unknown'
),
unmarked_ends as (
    select
        s.request_id, 'no_terminal_marker' as kind, coalesce(s.channel, '(lost)') as subject,
        'streams that ended clean, without the marker that ends a stream' as detail, false as blocks_close
    from steps s where s.notes like '%no_terminal_marker%'
),
estimates as (
    select
        m.request_id, 'approximate_recount' as kind, coalesce(v.sent_model, '(no model)') as subject,
        'counted with ' || v.encoding || ', which is not known to be its encoding' as detail, false as blocks_close
    from usage_verdicts v
    join (select distinct raw_id, raw_ordinal from recount) c on v.raw_id = c.raw_id and v.raw_ordinal = c.raw_ordinal
    join members m on v.raw_id = m.raw_id
    where v.approximate
),
not_recounted as (
    select
        m.request_id, case when n.is_counted then 'recounted_in_part' else 'not_recounted' end as kind,
        n.raw_id || '/' || n.raw_ordinal as subject, n.reason as detail, not n.is_counted as blocks_close
    from recount_note n join members m on n.raw_id = m.raw_id
),
substituted as (
    select
        v.request_id, 'model_substituted' as kind, coalesce(v.channel, '(lost)') || ' ' || v.sent || ' -> ' || v.served as subject,
        v.sent || ' was asked of the channel, and ' || v.source || ' says that ' || v.served || ' served' as detail, false as blocks_close
    from model_substitution v where v.verdict = 'different'
),
found as (
    select * from open_holds
    union all select * from assumed
    union all select * from assumed_models
    union all select * from batches_disagree
    union all select * from quarantined_usage
    union all select * from lost_records
    union all select * from lost_opens
    union all select * from unknown_endpoints
    union all select * from unmarked_ends
    union all select * from estimates
    union all select * from not_recounted
    union all select * from substituted
)
select f.request_id, r.period, f.kind, f.subject, f.detail, cast(count(*) as bigint) as rows, f.blocks_close
from found f join requests_created r on f.request_id = r.request_id
group by f.request_id, r.period, f.kind, f.subject, f.detail, f.blocks_close
