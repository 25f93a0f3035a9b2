-- One row is one charge of the month as FOCUS has it: what a meter of a try cost, a vendor's rounding, credit bought, given, given
-- back or lapsed, a correction of a balance, and the reversal of any of these. Money in suspense is no charge yet and is not here. It is asked for one piece of the
-- month's requests after the other, and last for the entries of people, without requests.
with month as (
    select period, starts_at, ends_at from periods where period = $period
),
closed as (
    select period from periods where status = 'closed'
),
-- the months in which a top-up counts: from its own until that of its reversal
bought as (
    select t.account, t.period as since, r.period as until
    from journal t
    left join journal r on r.kind = 'reversal' and t.transaction_id = r.reverses and t.account = r.account
    where t.kind = 'topup' and t.account like 'wallet:%'
),
-- a balance that was ever topped up was paid up front: what it pays for is billed nothing any more
prepaid as (
    select distinct account from bought where since <= $period and (until is null or until > $period)
),
units(meter, unit) as (values {units}),
requests as (
    select l.*, m.starts_at, m.ends_at, l.created_at < m.starts_at as is_late from ledger l cross join month m where l.period = $period and {piece}
),
tries as (
    select * from attempts where request_id in (select request_id from requests)
),
-- the wallet's entry of each try; its reference is the try, after a word on the month where it came late
wallet_charges as not materialized (
    select transaction_id, request_id, entry_id, regexp_replace(reference, '^late:[0-9]{4}-[0-9]{2}:', '') as tried
    from journal where kind = 'charge' and account like 'wallet:%'
),
paid as (
    select * from wallet_charges where request_id in (select request_id from requests)
),
listed as not materialized (
    select *, coalesce(list_amount, case when meter in ('rounding', 'conversion') then 0 else amount end) as list from charges
),
lines as (
    select
        r.*, c.attempt_ordinal, c.meter, c.quantity, c.unit_price, c.amount, c.rate_id, c.list_unit_price, c.list,
        u.unit, coalesce(a.channel, r.primary_channel, 'tokenledger') as channel,
        coalesce(c.model, a.sent_model, r.api_model, 'unknown') as sku_model, a.served_model as answered_model,
        coalesce(a.bucket, r.balance_bucket) as bucket, w.entry_id as paid_by,
        date_trunc('second', coalesce(a.started_at, r.created_at)) as began,
        date_trunc('second', coalesce(a.ended_at, a.started_at, r.created_at)) + interval 1 second as ended,
        p.service_tier, p.min_input_tokens, p.hours, p.weekdays, p.region, p.endpoint as priced_endpoint,
        t.term
    from listed c
    join requests r on c.request_id = r.request_id
    left join tries a on c.request_id = a.request_id and c.attempt_ordinal = a.ordinal
    left join model_prices p on c.rate_id = p.rate_id
    left join price_terms t on c.rate_id = t.term_id
    left join units u on c.meter = u.meter
    left join paid w on a.request_id = w.request_id and a.raw_request_id || '/' || a.raw_ordinal = w.tried
    where coalesce(a.disposition, 'charged') = 'charged'
),
usage_rows as (
    select
        case when b.account is null then l.amount else 0 end as billed, l.amount as effective, l.amount as contracted, l.list,
        case when l.meter in ('rounding', 'conversion') then 'Adjustment' else 'Usage' end as category, l.is_late as is_correction,
        case when l.meter in ('rounding', 'conversion') then l.meter || ' by ' || l.channel else l.meter || ' of ' || l.sku_model || ' on ' || l.channel end as description,
        'Usage-Based' as frequency, l.began, greatest(l.ended, l.began + interval 1 second) as ended, l.channel as provider, 'Model inference' as service,
        case when l.meter not in ('rounding', 'conversion') then l.quantity end as quantity,
        case when l.meter not in ('rounding', 'conversion') then coalesce(l.unit, 'Units') end as unit,
        case when l.meter not in ('rounding', 'conversion') then l.unit_price end as unit_price,
        case when l.meter not in ('rounding', 'conversion') then l.channel || '/' || l.sku_model end as sku,
        case when l.meter not in ('rounding', 'conversion') then
            l.channel || '/' || l.sku_model || '/' || l.meter || coalesce('/tier ' || l.service_tier, '')
            || coalesce('/from ' || l.min_input_tokens || ' input tokens', '') || coalesce('/' || l.hours, '') || coalesce('/' || l.weekdays, '')
            || coalesce('/in ' || l.region, '') || coalesce('/by ' || l.priced_endpoint, '') || coalesce('/' || l.term, '')
        end as sku_price,
        case when l.meter not in ('rounding', 'conversion') then l.meter end as meter,
        case when l.meter not in ('rounding', 'conversion') then l.sku_model end as sku_model,
        l.wallet, l.project, l.currency, l.tags, l.starts_at, l.ends_at, l.request_id, l.attempt_ordinal, cast(null as varchar) as entry_id,
        l.run_id, l.user_id, l.api_key_label, l.public_model, l.answered_model, l.route, l.bucket, l.rate_id, l.list_unit_price, l.status,
        cast(null as varchar) as reason, l.created_at as placed_at,
        l.created_at, l.api_model, l.primary_channel, l.backup_channel, l.retry_count, l.fallback_count, l.failed_request_policy,
        l.paid_by
    from lines l
    left join prepaid b on 'wallet:' || l.wallet || ':' || l.bucket = b.account
),
bonuses as (
    select transaction_id, -sum(amount) as amount from journal where account like 'bonus:%' and kind = 'topup' group by transaction_id
),
-- an entry beside what it tells of: a reversal beside what it takes back, with the sign turned, any other entry beside itself
booked as (
    select
        j.entry_id, j.posted_at, j.service_at, j.currency, j.request_id, j.reason, case when j.reverses is null then 1 else -1 end as sign,
        told.transaction_id, told.entry_id as told_id, told.account, told.period as told_period, told.kind, told.amount
    from journal j
    join journal told on coalesce(j.reverses, j.transaction_id) = told.transaction_id and j.account = told.account
    where j.period = $period and j.account like 'wallet:%' and j.kind in ('topup', 'adjustment', 'refund', 'expiry', 'reversal')
),
charges_back as (
    select b.entry_id, sum(c.list) as list
    from booked b
    join wallet_charges w on b.transaction_id = w.transaction_id
    join attempts a on w.request_id = a.request_id and w.tried = a.raw_request_id || '/' || a.raw_ordinal
    join listed c on a.request_id = c.request_id and a.ordinal = c.attempt_ordinal
    where b.kind = 'charge'
    group by b.entry_id
),
entries as (
    select
        b.*, s.wallet, s.bucket, m.starts_at, m.ends_at, coalesce(g.amount, 0) as bonus, t.paid, r.project, r.run_id, r.user_id, r.tags, u.list,
        exists (
            select 1 from bought p where p.account = b.account and p.since <= b.told_period and (p.until is null or p.until > b.told_period)
        ) as is_prepaid,
        coalesce(b.service_at < m.starts_at, false)
        or exists (select 1 from closed c where c.period < m.period and c.period in (b.told_period, r.period)) as is_correction
    from booked b
    cross join month m
    join wallet_statement s on b.entry_id = s.entry_id
    left join bonuses g on b.transaction_id = g.transaction_id
    left join wallet_lots t on b.told_id = t.lot_id
    left join charges_back u on b.entry_id = u.entry_id
    left join ledger r on b.request_id = r.request_id
),
-- usage below zero FOCUS has only where it corrects a month before: a charge that is taken back is an adjustment, without quantity
entry_charges as (
    select *, coalesce(paid, amount - bonus) as billed, 0 as effective, 'Purchase' as category, 'credit bought' as description
    from entries where kind = 'topup' and (amount > bonus or paid is not null)
    union all
    select *, 0 as billed, -bonus as effective, 'Credit' as category, 'credit given' as description from entries where kind = 'topup' and bonus > 0
    union all
    select *, case when is_prepaid then 0 else -amount end as billed, -amount as effective,
        case kind when 'refund' then 'Credit' else 'Adjustment' end as category,
        case kind when 'charge' then 'usage' else kind end as description
    from entries where kind in ('refund', 'adjustment', 'charge')
    union all
    select *, 0 as billed, -amount as effective, 'Adjustment' as category, 'credit lapsed' as description from entries where kind = 'expiry'
),
entry_rows as (
    select
        sign * billed as billed, sign * effective as effective, sign * case kind when 'charge' then effective else billed end as contracted,
        sign * coalesce(list, billed) as list, category, is_correction,
        case when sign < 0 then 'reversal of ' else '' end || description as description, 'One-Time' as frequency,
        date_trunc('second', coalesce(service_at, posted_at)) as began,
        date_trunc('second', coalesce(service_at, posted_at)) + interval 1 second as ended, bucket as provider, 'Prepaid balance' as service,
        case when category = 'Purchase' then sign end as quantity, case when category = 'Purchase' then 'Units' end as unit,
        case when category = 'Purchase' then billed end as unit_price,
        case when category = 'Purchase' then bucket || '/credit' end as sku,
        case when category = 'Purchase' then bucket || '/credit' end as sku_price,
        case when category = 'Purchase' then 'credit' end as meter, cast(null as varchar) as sku_model,
        wallet, project, currency, tags, starts_at, ends_at, request_id, cast(null as integer) as attempt_ordinal, entry_id,
        run_id, user_id, cast(null as varchar) as api_key_label, cast(null as varchar) as public_model, cast(null as varchar) as answered_model,
        cast(null as varchar) as route, bucket, cast(null as varchar) as rate_id, null as list_unit_price, cast(null as varchar) as status, reason, posted_at as placed_at,
        cast(null as timestamp) as created_at, cast(null as varchar) as api_model, cast(null as varchar) as primary_channel,
        cast(null as varchar) as backup_channel, cast(null as bigint) as retry_count, cast(null as bigint) as fallback_count,
        cast(null as varchar) as failed_request_policy, entry_id as paid_by
    from entry_charges
),
rows as (
    select * from usage_rows
    union all
    select * from entry_rows where {entries}
)
select
    cast(billed as decimal(38,12)) as "BilledCost",
    wallet as "BillingAccountId",
    wallet as "BillingAccountName",
    currency as "BillingCurrency",
    ends_at as "BillingPeriodEnd",
    starts_at as "BillingPeriodStart",
    category as "ChargeCategory",
    case when is_correction then 'Correction' end as "ChargeClass",
    description as "ChargeDescription",
    frequency as "ChargeFrequency",
    ended as "ChargePeriodEnd",
    began as "ChargePeriodStart",
    case when category = 'Usage' then quantity end as "ConsumedQuantity",
    case when category = 'Usage' then unit end as "ConsumedUnit",
    cast(contracted as decimal(38,12)) as "ContractedCost",
    cast(unit_price as decimal(38,12)) as "ContractedUnitPrice",
    cast(effective as decimal(38,12)) as "EffectiveCost",
    provider as "HostProviderName",
    provider as "InvoiceIssuerName",
    cast(list as decimal(38,12)) as "ListCost",
    cast(quantity as bigint) as "PricingQuantity",
    unit as "PricingUnit",
    provider as "ProviderName",
    provider as "PublisherName",
    'AI and Machine Learning' as "ServiceCategory",
    service as "ServiceName",
    provider as "ServiceProviderName",
    'Generative AI' as "ServiceSubcategory",
    sku as "SkuId",
    meter as "SkuMeter",
    case when sku_price is not null then cast(json_object('x_Meter', meter, 'x_Model', sku_model) as varchar) end as "SkuPriceDetails",
    sku_price as "SkuPriceId",
    project as "SubAccountId",
    project as "SubAccountName",
    tags as "Tags",
    request_id as "x_RequestId",
    attempt_ordinal as "x_AttemptOrdinal",
    entry_id as "x_EntryId",
    run_id as "x_RunId",
    user_id as "x_UserId",
    api_key_label as "x_ApiKeyLabel",
    public_model as "x_PublicModel",
    answered_model as "x_ServedModel",
    route as "x_Route",
    bucket as "x_BalanceBucket",
    rate_id as "x_RateId",
    cast(list_unit_price as decimal(38,12)) as "x_ListUnitPrice",
    status as "x_Status",
    reason as "x_Reason",
    strftime(created_at, '%Y-%m-%dT%H:%M:%S.%fZ') as "x_CreatedAt",
    api_model as "x_ApiModel",
    primary_channel as "x_PrimaryChannel",
    backup_channel as "x_BackupChannel",
    retry_count as "x_RetryCount",
    fallback_count as "x_FallbackCount",
    failed_request_policy as "x_FailedRequestPolicy",
    paid_by as "x_WalletEntryId"
from rows
order by placed_at, "x_RequestId" nulls first, "x_AttemptOrdinal" nulls first, "x_EntryId" nulls first, "ChargeCategory", "SkuMeter" nulls first,
    "x_RateId" nulls first, "ContractedUnitPrice" nulls first
