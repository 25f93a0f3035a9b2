-- One row is one statement about who a logical request belongs to: applied where it counts, claimed where it does not. The key
-- registry comes first; a header that contradicts it counts only for a trusted key; runs and tags come from the request alone.
-- check: standing in ('applied', 'claimed')
-- check: unique request_id, fact where standing = 'applied'
with keys as (
    select m.request_id, k.user, k.project, k.trusted
    from members m
    join received r on m.raw_id = r.raw_id
    join book_key k
        on r.credential = k.fingerprint
        and r.received_at >= coalesce(k.valid_from, timestamp '0001-01-01 00:00:00')
        and r.received_at < coalesce(k.valid_to, timestamp '9999-12-31 00:00:00')
    where m.position = 1
    qualify row_number() over (partition by m.request_id order by k.id, k.valid_from) = 1
),
registered as (
    select request_id, 'user_id' as fact, user as value from keys where user is not null
    union all
    select request_id, 'project' as fact, project as value from keys where project is not null
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
    from statements s left join keys k on s.request_id = k.request_id
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
