-- One row is one thing that a key did in a month and was not allowed. The gateway refuses it to a key with enforce = true; to others,
-- at the forward door, and where a limit is passed between two builds, it happens and is told here.
-- check: subject is not null and requests > 0
-- check: unique period, subject
with used as (
    select l.period, l.api_key_id, l.api_model, l.route, l.created_at, k.models, k.routes, k.expires
    from ledger l
    join book_key k
        on l.api_key_id = k.id
        and l.created_at >= coalesce(k.valid_from, timestamp '0001-01-01 00:00:00')
        and l.created_at < coalesce(k.valid_to, timestamp '9999-12-31 00:00:00')
    where l.status <> 'rejected' and l.period in (select period from book_period)
),
breaches as (
    select period, api_key_id || ' expired' as subject, 'used after it had expired' as detail
    from used where created_at >= expires
    union all
    select period, api_key_id || ' model ' || api_model, 'asked for a model that it may not use'
    from used where models is not null and not contains(models, '"' || api_model || '"')
    union all
    select period, api_key_id || ' route ' || route, 'took a route that it may not take'
    from used where routes is not null and not contains(routes, '"' || route || '"')
),
spent as (
    select
        period, api_key_id || ' monthly_limit' as subject,
        'spent ' || cast(sum(charged) as decimal(38,12)) || ' of ' || max(monthly_limit) as detail, cast(sum(requests) as bigint) as requests
    from key_usage group by period, api_key_id having sum(charged) > max(monthly_limit)
),
key_breaches as (
    select period, subject, detail, cast(count(*) as bigint) as requests from breaches group by period, subject, detail
    union all
    select period, subject, detail, requests from spent
)
select * from key_breaches
