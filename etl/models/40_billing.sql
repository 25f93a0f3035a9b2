-- One row is one try with the rule that decides its charge, and in plain words why nothing or an unknown amount is due.
-- usage: every meter. input: the meters of the input. flat: the policy's flat amount. nothing and free: zero, for the reason.
-- unpriced and unknown: not known, for the reason.
-- check: rule in ('usage', 'input', 'flat', 'nothing', 'free', 'unpriced', 'unknown')
-- check: rule in ('usage', 'input', 'flat') or reason is not null
-- check: select count(*) from billing having count(*) is distinct from (select count(*) from steps)
with facts as (
    select
        s.request_id, s.raw_id, s.raw_ordinal, s.ordinal, s.is_only, s.channel, coalesce(s.sent_model, n.priced_model, j.model) as sent_model, s.outcome, s.billing, s.job, s.http_status, s.is_unread, s.received_at, s.endpoint, d.service_tier, d.region,
        u.usage_source, u.input_tokens, u.vendor_charge,
        v.fault, j.standing, j.reason as job_reason, e.repeats_request_id,
        c.name is not null as is_known_channel,
        c.bucket, c.route, coalesce(c.timezone, 'UTC') as timezone,
        p.policy_id, p.policy, p.charge, p.flat_amount, p.effective_from,
        n.reason as uncounted,
        u.usage_source <> 'none' and n.raw_id is null as has_usage
    from steps s
    join usage_totals u on s.raw_id = u.raw_id and s.raw_ordinal = u.raw_ordinal
    join usage_verdicts v on s.raw_id = v.raw_id and s.raw_ordinal = v.raw_ordinal
    join conditions d on s.raw_id = d.raw_id and s.raw_ordinal = d.raw_ordinal
    left join recount_note n on s.raw_id = n.raw_id and s.raw_ordinal = n.raw_ordinal and not n.is_counted
    left join jobs j on s.raw_id = j.raw_id and s.raw_ordinal = j.raw_ordinal
    left join repeats e on s.raw_id = e.raw_id and s.raw_ordinal = e.raw_ordinal
    left join priced_models n on s.channel = n.channel and j.model = n.model
    left join book_channel c on s.channel = c.name
    left join policies p on s.raw_id = p.raw_id and s.raw_ordinal = p.raw_ordinal
),
-- prices of what nothing that is recorded counts: where one applies, the charge is not known whole
fees as (
    select r.* from book_rate r join meter m on r.meter = m.name where not m.recorded and r.book = 'charge' and r.unit_price > 0
),
owed as (
    select f.raw_id, f.raw_ordinal, min(r.meter) as meter
    from facts f
    join fees r
        on (r.channel = '*' or r.channel = f.channel) and (r.model = '*' or r.model = f.sent_model)
        and (r.endpoint is null or r.endpoint = f.endpoint) and (r.service_tier is null or r.service_tier = f.service_tier)
        and f.received_at >= r.effective_from and f.received_at < coalesce(r.effective_to, timestamp '9999-12-31 00:00:00')
    group by f.raw_id, f.raw_ordinal
),
due as (
    -- what is due, before it is asked whether it can be worked out
    select
        *,
        case
            when billing = 'free'                     then 'free'
            when repeats_request_id is not null       then 'free'
            when outcome = 'unknown'                  then 'unknown'
            when outcome = 'ok' and standing = 'free' then 'free'
            when outcome = 'ok' and standing = 'unknown' then 'unpriced'
            when outcome = 'ok'                       then 'usage'
            when billing = 'poll' and job is distinct from 'asked' and http_status is not null then 'free'
            when policy_id is null                    then 'unpriced'
            when charge = 'none'                      then 'nothing'
            when charge = 'flat'                      then 'flat'
            when charge = 'reported' and not has_usage and fault is null and billing = 'usage' then 'nothing'
            when charge = 'input'                     then 'input'
            else                                           'usage'
        end as wish
    from facts
),
billing as (
    select
        d.*,
        case
            when wish in ('free', 'unknown', 'nothing', 'unpriced') then wish
            when not is_known_channel then 'unpriced'
            when wish = 'flat' then 'flat'
            when billing = 'unknown' or not has_usage or o.meter is not null then 'unpriced'
            else wish
        end as rule,
        case
            when repeats_request_id is not null then 'repeat of ' || repeats_request_id
            when standing in ('free', 'unknown') then job_reason
            when wish = 'free' and billing = 'poll' then 'a question after a result, and no answer'
            when wish = 'free' then 'this endpoint is free'
            when wish = 'unknown' then 'it was sent upstream and its end was never recorded'
            when wish = 'unpriced' then 'no row of failed_requests.csv covers ' || outcome || ' on ' || coalesce(channel, '*')
            when wish = 'nothing' and charge = 'none' then 'policy ' || policy || ' charges nothing'
            when wish = 'nothing' then 'policy ' || policy || ' charges what is reported, and nothing was'
            when not is_known_channel then 'channel ' || coalesce(channel, '(lost)') || ' is not in channels.toml'
            when wish = 'flat' then null
            when billing = 'unknown' then 'usage of this endpoint is not understood'
            when fault is not null then 'reported usage is quarantined: ' || fault
            when not has_usage and is_unread then
                'the reply is in brotli, which is read from the bytes kept: they are damaged or erased, or only digests are kept (capture.bodies)'
            when not has_usage then
                case when usage_source = 'none' then 'no usage' else 'no output' end
                || ' was reported and none could be recounted' || coalesce(': ' || uncounted, '')
            when o.meter is not null then 'rates.csv prices ' || o.meter || ' there, and nothing that is recorded tells how many'
        end as reason
    from due d left join owed o on d.raw_id = o.raw_id and d.raw_ordinal = o.raw_ordinal
)
select * from billing
