-- One row is one try and one source that says which model served it: the model asked for by the client, the one sent upstream,
-- the one served, and how the last two compare. Names are compared without provider, region and marketplace decoration and
-- with `.`, `_` and `@` as `-`; the patterns stand in etl/tables/model_names.csv.
-- same: equal. snapshot: the served name is the sent one and a date. alias: the sent name promises no particular model (a router,
-- an Azure deployment, -latest), or the served name is the sent one without its date. different: anything else.
-- check: verdict in ('same', 'snapshot', 'alias', 'different') and sent is not null and served is not null
-- check: unique request_id, attempt_ordinal, source
with claims as (
    select s.request_id, s.ordinal, s.channel, s.url, s.sent_model, s.served_model, 'body model' as source
    from steps s where s.ordinal > 0 and s.served_model <> ''
    union all
    select s.request_id, s.ordinal, s.channel, s.url, s.sent_model, e.value as served_model, e.source
    from steps s join evidence e on s.raw_id = e.raw_id and s.raw_ordinal = e.raw_ordinal and e.fact = 'upstream_model'
    where s.ordinal > 0
),
asked as (
    select c.*, r.api_model as asked
    from claims c join requests_created r on c.request_id = r.request_id
),
pairs as (
    select *, coalesce(sent_model, asked) as sent from asked where coalesce(sent_model, asked) <> ''
),
names as (
    select sent as name from pairs union select served_model from pairs
),
rules as (
    select
        string_agg(case when kind = 'drop' then '(?:' || pattern || ')' end, '|') as dropped,
        '^(?:' || string_agg(case when kind = 'snapshot' then pattern end, '|') || ')$' as snapshots,
        string_agg(case when kind = 'router' then pattern end, '|') as routers,
        string_agg(case when kind = 'deployment' then pattern end, '|') as deployments
    from table_model_names
),
plain as (
    select n.name, translate(regexp_replace(lower(trim(n.name)), r.dropped, '', 'g'), '._@', '---') as plain
    from names n cross join rules r
),
matched as (
    select p.name, regexp_replace(p.plain, w.pattern, w.replacement) as plain
    from plain p join table_model_names w on w.kind = 'rewrite' and regexp_matches(p.plain, w.pattern)
    qualify row_number() over (partition by p.name order by w.pattern) = 1
),
rewritten as (
    select p.name, coalesce(m.plain, p.plain) as plain from plain p left join matched m on p.name = m.name
),
compared as (
    -- names and addresses are few, and a pattern is costly to ask
    select
        p.sent, p.served_model, p.url, regexp_replace(a.plain, '-latest$', '') as base, a.plain as sent_plain, b.plain as served_plain,
        r.snapshots, r.routers, coalesce(regexp_matches(p.url, r.deployments), false) as is_deployment
    from (select distinct sent, served_model, url from pairs) p cross join rules r
    join rewritten a on p.sent = a.name
    join rewritten b on p.served_model = b.name
),
judged as (
    select
        sent, served_model, url,
        case
            when sent_plain = served_plain then 'same'
            when base <> sent_plain and (served_plain = base
                or (starts_with(served_plain, base) and regexp_matches(substr(served_plain, length(base) + 1), snapshots))) then 'alias'
            when starts_with(served_plain, sent_plain) and regexp_matches(substr(served_plain, length(sent_plain) + 1), snapshots) then 'snapshot'
            when starts_with(sent_plain, served_plain) and regexp_matches(substr(sent_plain, length(served_plain) + 1), snapshots) then 'alias'
            when is_deployment or regexp_matches(sent_plain, routers) then 'alias'
            else 'different'
        end as verdict
    from compared
)
select
    p.request_id, p.asked, p.sent, p.served_model as served, j.verdict, p.source, p.ordinal as attempt_ordinal, p.channel
from pairs p
join judged j on p.sent = j.sent and p.served_model = j.served_model and p.url is not distinct from j.url
