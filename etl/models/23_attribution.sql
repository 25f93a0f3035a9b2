-- One row is one statement about who a logical request belongs to: applied where it counts, claimed where it does not. The key
-- registry comes first; a header that contradicts it counts only for a trusted key; runs and tags come from the request alone.
-- check: standing in ('applied', 'claimed')
-- check: unique request_id, fact where standing = 'applied'
with registered as (
    select request_id, 'user_id' as fact, user as value from request_keys where user is not null
    union all
    select request_id, 'project' as fact, project as value from request_keys where project is not null
),
told as (
    select distinct request_id, fact from statements
),
-- what the registry says where nothing else is said, which is most of it, needs no ranking
undisputed as (
    select r.request_id, r.fact, r.value from registered r anti join told t on r.request_id = t.request_id and r.fact = t.fact
),
ranked as (
    select r.request_id, r.fact, r.value, 'registry' as source, 100 as rank
    from registered r join told t on r.request_id = t.request_id and r.fact = t.fact
    union all
    select
        s.request_id, s.fact, s.value, s.source,
        s.priority + case when s.overrides_registry and coalesce(k.trusted, false) then 0 else 200 end as rank
    from statements s left join request_keys k on s.request_id = k.request_id
),
placed as (
    select *, row_number() over (partition by request_id, fact order by rank, source, value) as place from ranked
),
attribution as (
    select request_id, fact, value, 'registry' as source, 'applied' as standing from undisputed
    union all
    select request_id, fact, value, source, case when place = 1 then 'applied' else 'claimed' end as standing from placed
)
select * from attribution
