-- One row is one recorded request and the logical request it belongs to: the first of its chain of SDK retries. Chains are
-- followed by doubling, so up to 32 retries of one call are found. A twin has no row: the request it is a duplicate of has.
-- check: request_id is not null and position >= 1
-- check: select request_id from members where request_id in (select raw_id from links)
-- check: select count(*) from members having count(*) is distinct from (select count(*) from received) - (select count(*) from twins)
with one as (
    select raw_id, earlier_id from links
),
two as (
    select a.raw_id, coalesce(b.earlier_id, a.earlier_id) as earlier_id from one a left join one b on a.earlier_id = b.raw_id
),
four as (
    select a.raw_id, coalesce(b.earlier_id, a.earlier_id) as earlier_id from two a left join two b on a.earlier_id = b.raw_id
),
eight as (
    select a.raw_id, coalesce(b.earlier_id, a.earlier_id) as earlier_id from four a left join four b on a.earlier_id = b.raw_id
),
sixteen as (
    select a.raw_id, coalesce(b.earlier_id, a.earlier_id) as earlier_id from eight a left join eight b on a.earlier_id = b.raw_id
),
roots as (
    select a.raw_id, coalesce(b.earlier_id, a.earlier_id) as request_id from sixteen a left join sixteen b on a.earlier_id = b.raw_id
),
named as (
    select r.raw_id, r.received_at, coalesce(t.request_id, r.raw_id) as request_id
    from received r left join roots t on r.raw_id = t.raw_id
    where r.raw_id not in (select twin_id from twins)
),
members as (
    select
        raw_id, received_at, request_id,
        cast(row_number() over (partition by request_id order by received_at, raw_id) as integer) as position,
        row_number() over (partition by request_id order by received_at desc, raw_id desc) = 1 as is_last
    from named
)
select * from members
