-- One row is one request as a door recorded it and where it ended: charged, free for a reason, or in suspense for a reason. Its
-- further copies are duplicates of it, and so are the record that the other door made of the same call and a call that the vendor
-- answered with the answer of an earlier one. What a logical request's retries cost stands with each of them.
-- check: disposition in ('charged', 'free', 'suspense', 'duplicate') and (disposition = 'duplicate') = (duplicate_of is not null) and (reason is null) = (disposition = 'charged')
-- check: select count(*) as raw_rows from raw_request having count(*) is distinct from (select coalesce(sum(case when raw_rows > 0 and disposition <> 'duplicate' then 1 else 0 end) + sum(duplicates), 0) from dispositions)
with ended as (
    select
        raw_id,
        sum(case when disposition = 'suspense' then 1 else 0 end) as suspended,
        sum(case when disposition = 'charged' then 1 else 0 end) as charged,
        min(case when disposition = 'suspense' then reason end) as suspense_reason,
        min(case when disposition = 'free' then reason end) as free_reason
    from attempt_charges group by raw_id
),
repeated as (
    select e.raw_id, min(r.repeats_raw_id) as duplicate_of
    from repeats r join ended e on r.raw_id = e.raw_id
    where e.suspended = 0 and e.charged = 0
    group by e.raw_id
)
select
    r.raw_id as raw_request_id, m.request_id, c.period,
    case when d.raw_id is not null then 'duplicate' when e.suspended > 0 then 'suspense' when e.charged > 0 then 'charged' else 'free' end as disposition,
    case
        when e.raw_id is null then 'nothing was sent upstream'
        when e.suspended > 0 then e.suspense_reason
        when e.charged > 0 then null
        else e.free_reason
    end as reason,
    cast(r.copies as bigint) as raw_rows,
    cast(case when d.raw_id is not null then r.copies else greatest(r.copies - 1, 0) end as bigint) as duplicates,
    d.duplicate_of,
    r.writer, r.seq
from received r
join members m on r.raw_id = m.raw_id
join requests_created c on m.request_id = c.request_id
left join ended e on r.raw_id = e.raw_id
left join repeated d on r.raw_id = d.raw_id
union all
select
    t.twin_id, m.request_id, c.period, 'duplicate' as disposition,
    'the same call as ' || t.kept_id || ', which passed both doors' as reason,
    cast(r.copies as bigint) as raw_rows, cast(r.copies as bigint) as duplicates, t.kept_id as duplicate_of, r.writer, r.seq
from twins t
join received r on t.twin_id = r.raw_id
join members m on t.kept_id = m.raw_id
join requests_created c on m.request_id = c.request_id
