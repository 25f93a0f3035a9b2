-- One row is one thing a person should know about the data; where blocks_close is true its month cannot close while it stands. What
-- a person acknowledged by its subject stands no longer, except for a price that is missing.
-- check: kind is not null and subject is not null and detail is not null and rows >= 0 and blocks_close is not null
with acknowledged as (
    select distinct json_extract_string(facts, '$.subject') as subject from admin_events where event in ('acknowledged', 'loss_acknowledged')
),
at_source as (
    select f.kind, p.period, f.subject, f.detail, f.rows, f.blocks_close
    from source_finding f
    left join book_period p on f.at >= p.starts_at and f.at < p.ends_at
    left join closed_finding c on f.kind = c.kind and f.subject = c.subject
    where c.subject is null
),
loss_events as (
    select
        'loss' as kind, p.period, e.event_id as subject,
        'the proxy reported traffic that it could not record: ' || coalesce(e.reason, e.facts) as detail,
        cast(coalesce(try_cast(json_extract_string(e.facts, '$.records') as bigint), 1) as bigint) as rows,
        true as blocks_close
    from admin_events e
    left join book_period p on e.at >= p.starts_at and e.at < p.ends_at
    where e.event = 'loss'
),
clock_steps as (
    select 'clock_step' as kind, p.period, e.event_id as subject, 'the clock stepped: ' || e.facts as detail, cast(1 as bigint) as rows, false as blocks_close
    from admin_events e left join book_period p on e.at >= p.starts_at and e.at < p.ends_at
    where e.event = 'clock_step'
),
unverified as (
    select
        'tls_unverified' as kind, p.period, e.event_id as subject,
        'the proxy started with a channel whose certificate it does not check: ' || coalesce(json_extract_string(e.facts, '$.channel'), '(unnamed)') as detail,
        cast(1 as bigint) as rows, false as blocks_close
    from admin_events e left join book_period p on e.at >= p.starts_at and e.at < p.ends_at
    where e.event = 'tls_unverified'
),
faulty_entries as (
    select 'faulty_entry' as kind, p.period, e.event_id as subject, e.event || ' is not booked: ' || e.fault as detail, cast(1 as bigint) as rows, true as blocks_close
    from admin_events e left join book_period p on e.at >= p.starts_at and e.at < p.ends_at
    where e.fault is not null
    union all
    select 'faulty_entry' as kind, p.period, r.event_id as subject, 'wallet_reverse is not booked: ' || r.fault as detail, cast(1 as bigint) as rows, true as blocks_close
    from reversals r
    left join book_period p on r.at >= p.starts_at and r.at < p.ends_at
    where r.fault is not null
),
reservations as (
    -- of no month: a hold moves nothing, and may last over the end of its own
    select
        'open_hold' as kind, cast(null as varchar) as period, h.hold_id as subject,
        h.amount || ' ' || h.currency || ' of ' || h.wallet || ':' || h.bucket || ' are held until '
            || strftime(h.held_until, '%Y-%m-%dT%H:%M:%S.%fZ') || ': ' || h.reason as detail,
        cast(1 as bigint) as rows, false as blocks_close
    from wallet_holds h join setting s on h.placed_at <= s.as_of and s.as_of < h.ends_at
),
open_holds as (
    select
        'open_hold' as kind, l.period, a.raw_request_id || '/' || a.raw_ordinal as subject,
        'sent to ' || coalesce(a.channel, '(lost)') || ', and its end was never recorded' as detail, cast(1 as bigint) as rows, true as blocks_close
    from attempts a join ledger_facts l on a.request_id = l.request_id
    where a.outcome = 'unknown' and a.disposition = 'suspense'
),
assumed_tiers as (
    select
        'assumed' as kind, l.period, a.channel || ' ' || c.service_tier as subject,
        'charged at the service tier that was asked for: the answer names none' as detail, cast(count(*) as bigint) as rows, false as blocks_close
    from conditions c
    join attempts a on c.raw_id = a.raw_request_id and c.raw_ordinal = a.raw_ordinal
    join ledger_facts l on a.request_id = l.request_id
    where c.tier_source = 'assumed' and a.disposition = 'charged'
    group by l.period, a.channel, c.service_tier
),
assumed_regions as (
    select
        'assumed' as kind, l.period, a.channel || ' region ' || c.region as subject,
        'charged as processed in the region that was asked for: the answer names none' as detail, cast(count(*) as bigint) as rows,
        false as blocks_close
    from conditions c
    join attempts a on c.raw_id = a.raw_request_id and c.raw_ordinal = a.raw_ordinal
    join ledger_facts l on a.request_id = l.request_id
    where c.region_source = 'assumed' and a.disposition = 'charged'
    group by l.period, a.channel, c.region
),
quarantined_usage as (
    select
        'quarantined_usage' as kind, l.period, v.raw_id || '/' || v.raw_ordinal as subject, v.fault as detail, cast(1 as bigint) as rows, true as blocks_close
    from usage_verdicts v
    join members m on v.raw_id = m.raw_id
    join ledger_facts l on m.request_id = l.request_id
    where v.fault is not null
),
lost_records as (
    select
        'lost_request_record' as kind, l.period, r.raw_id as subject,
        'attempts of this request were found, its own record was not' as detail, cast(1 as bigint) as rows, true as blocks_close
    from received r
    join members m on r.raw_id = m.raw_id
    join ledger_facts l on m.request_id = l.request_id
    where r.copies = 0
),
lost_opens as (
    select
        'lost_attempt_record' as kind, l.period, s.raw_id || '/' || s.raw_ordinal as subject,
        'the end of this attempt was found, its beginning was not' as detail, cast(1 as bigint) as rows, true as blocks_close
    from steps s join ledger_facts l on s.request_id = l.request_id
    where s.raw_ordinal > 0 and not s.is_opened
),
never_tried as (
    select
        'no_attempt' as kind, l.period, d.raw_request_id as subject,
        'recorded, and neither sent upstream nor refused: the proxy stopped in between' as detail, cast(1 as bigint) as rows, false as blocks_close
    from dispositions d join ledger_facts l on d.request_id = l.request_id
    where d.reason = 'nothing was sent upstream'
),
copies as (
    select
        'duplicate' as kind, d.period, d.raw_request_id as subject,
        case when d.duplicate_of is null then 'seen more than once; the first is ' || d.writer || ' ' || d.seq else d.reason end as detail, d.duplicates as rows, false as blocks_close
    from dispositions d where d.duplicates > 0
),
unregistered as (
    select
        'unregistered_key' as kind, period, coalesce(api_key_id, '(no credential)') as subject,
        'not in keys.toml: register it with `tokenledger key add`' as detail, cast(count(*) as bigint) as rows, false as blocks_close
    from ledger_facts where api_key_label = 'unregistered' group by period, api_key_id
),
breaches as (
    select 'key_not_allowed' as kind, period, subject, detail, requests as rows, false as blocks_close from key_breaches
),
unknown_endpoints as (
    select
        'unknown_endpoint' as kind, l.period, r.method || ' ' || r.path as subject,
        'relayed and recorded; its usage is not understood' as detail, cast(count(*) as bigint) as rows, false as blocks_close
    from received r join members m on r.raw_id = m.raw_id join ledger_facts l on m.request_id = l.request_id
    where r.billing = 'unknown' group by l.period, r.method, r.path
),
unmarked_ends as (
    select
        'no_terminal_marker' as kind, l.period, coalesce(s.channel, '(lost)') as subject,
        'streams that ended clean, without the marker that ends a stream' as detail, cast(count(*) as bigint) as rows, false as blocks_close
    from steps s join ledger_facts l on s.request_id = l.request_id
    where s.notes like '%no_terminal_marker%' group by l.period, s.channel
),
estimates as (
    select
        'approximate_recount' as kind, l.period, coalesce(v.sent_model, '(no model)') as subject,
        'counted with ' || min(v.encoding) || ', which is not known to be its encoding' as detail, cast(count(*) as bigint) as rows, false as blocks_close
    from usage_verdicts v
    join (select distinct raw_id, raw_ordinal from recount) c on v.raw_id = c.raw_id and v.raw_ordinal = c.raw_ordinal
    join members m on v.raw_id = m.raw_id
    join ledger_facts l on m.request_id = l.request_id
    where v.approximate
    group by l.period, v.sent_model
),
not_recounted as (
    select
        case when n.is_counted then 'recounted_in_part' else 'not_recounted' end as kind,
        l.period, n.raw_id || '/' || n.raw_ordinal as subject, n.reason as detail, cast(1 as bigint) as rows, not n.is_counted as blocks_close
    from recount_note n
    join members m on n.raw_id = m.raw_id
    join ledger_facts l on m.request_id = l.request_id
),
-- a price that is missing cannot be acknowledged; usage that nobody will ever know can
open_items as (
    select u.*, u.meter is null and a.subject is not null as is_acknowledged
    from unpriced u
    left join attempts t on u.request_id = t.request_id and u.attempt_ordinal = t.ordinal
    left join acknowledged a on t.raw_request_id || '/' || t.raw_ordinal = a.subject
),
models_told as (
    select distinct raw_id, raw_ordinal, model from usage_objects where piece <> '' and model is not null
    union
    select raw_id, raw_ordinal, model from jobs where standing = 'result' and model is not null
),
assumed_models as (
    select
        'assumed_model' as kind, l.period, p.channel || ' ' || p.model as subject,
        'charged at the price of ' || p.priced_model || ': the answer names its dated model alone' as detail,
        cast(count(*) as bigint) as rows, false as blocks_close
    from priced_models p
    join models_told t on p.model = t.model
    join attempts a on t.raw_id = a.raw_request_id and t.raw_ordinal = a.raw_ordinal and p.channel = a.channel
    join ledger_facts l on a.request_id = l.request_id
    where p.is_assumed and a.disposition = 'charged' group by l.period, p.channel, p.model, p.priced_model
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
        'batch_disagrees' as kind, l.period, t.channel || ' ' || t.job_id as subject,
        'the batch tells ' || coalesce(t.input_tokens, 0) || ' input and ' || coalesce(t.output_tokens, 0) || ' output tokens, the lines of its output '
            || coalesce(o.input_tokens, 0) || ' and ' || coalesce(o.output_tokens, 0) || '; one of them is charged' as detail,
        cast(1 as bigint) as rows, false as blocks_close
    from batch_told t
    join batch_listed o on t.channel = o.channel and t.job_id = o.job_id
    join ledger_facts l on o.request_id = l.request_id
    where coalesce(t.input_tokens, 0) <> coalesce(o.input_tokens, 0) or coalesce(t.output_tokens, 0) <> coalesce(o.output_tokens, 0)
),
substituted as (
    select
        'model_substituted' as kind, l.period, coalesce(v.channel, '(lost)') || ' ' || v.sent || ' -> ' || v.served as subject,
        v.sent || ' was asked of the channel, and ' || v.source || ' says that ' || v.served || ' served' as detail,
        cast(count(*) as bigint) as rows, false as blocks_close
    from model_substitution v join ledger_facts l on v.request_id = l.request_id
    where v.verdict = 'different' group by l.period, v.channel, v.sent, v.served, v.source
),
unpriced_models as (
    select
        'unpriced' as kind, period, coalesce(channel, '(none)') || ' ' || coalesce(upstream_model, '(no model)') || coalesce(' ' || meter, '') as subject,
        min(reason) as detail, cast(count(*) as bigint) as rows, bool_or(not is_acknowledged) as blocks_close
    from open_items group by period, channel, upstream_model, meter
),
balance_differences as (
    select
        'balance_differs' as kind, period, subject, 'the vendor shows ' || vendor_amount || ', booked is ' || our_amount as detail,
        cast(1 as bigint) as rows, false as blocks_close
    from reconciliation where source = 'snapshot' and class = 'mismatch'
),
found as (
    select * from at_source
    union all select * from loss_events
    union all select * from clock_steps
    union all select * from unverified
    union all select * from faulty_entries
    union all select * from open_holds
    union all select * from reservations
    union all select * from assumed_tiers
    union all select * from assumed_regions
    union all select * from assumed_models
    union all select * from batches_disagree
    union all select * from quarantined_usage
    union all select * from lost_records
    union all select * from lost_opens
    union all select * from never_tried
    union all select * from copies
    union all select * from unregistered
    union all select * from breaches
    union all select * from unknown_endpoints
    union all select * from unmarked_ends
    union all select * from estimates
    union all select * from not_recounted
    union all select * from substituted
    union all select * from unpriced_models
    union all select * from balance_differences
)
select
    f.kind, f.period, f.subject, f.detail, f.rows,
    f.blocks_close and (a.subject is null or f.kind = 'unpriced') as blocks_close
from found f left join acknowledged a on f.subject = a.subject
