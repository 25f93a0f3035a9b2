-- One row is one logical request with who it belongs to, which key it used and which wallet pays.
-- check: wallet is not null and api_key_label is not null
-- check: unique request_id
with applied as (
    select
        request_id,
        max(case when fact = 'user_id' then value end) as user_id,
        max(case when fact = 'project' then value end) as project,
        max(case when fact = 'run_id' then value end) as run_id
    from attribution where standing = 'applied' group by request_id
),
tag_texts as (
    select
        request_id, fact,
        cast(to_json(substr(fact, 5)) as varchar) || ':' || cast(to_json(value) as varchar) as member
    from attribution where fact like 'tag:%' and standing = 'applied'
),
tagged as (
    select request_id, '{' || string_agg(member, ',' order by fact) || '}' as tags from tag_texts group by request_id
),
callers as (
    select
        k.request_id, a.user_id, a.project, a.run_id, t.tags,
        coalesce(k.id, k.credential) as api_key_id,
        coalesce(k.label, 'unregistered') as api_key_label,
        coalesce(k.wallet, 'unregistered') as wallet
    from request_keys k
    left join applied a on k.request_id = a.request_id
    left join tagged t on k.request_id = t.request_id
)
select * from callers
