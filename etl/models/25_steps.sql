-- One row is one try within its logical request: numbered over all requests that the SDK's retries made of it, with the reason
-- it was made. Ordinal 0 marks a request that the proxy refused before any try. stands: of its request's tries the one that
-- answered ok, else the last: its facts stand for the request. is_only: its request has no other row here. is_last: it is of the last
-- record of its request.
-- check: reason is not null or ordinal = 0
-- check: unique request_id where stands
-- check: unique request_id, ordinal where ordinal > 0
with their_tries as (
    select o.*, m.request_id, m.position, m.is_last
    from outcomes o join members m on o.raw_id = m.raw_id
),
-- most requests have one try: only the others are put in order, and without their texts
several as (
    select m.request_id from outcomes o join members m on o.raw_id = m.raw_id group by m.request_id having count(*) > 1
),
placed as (
    select
        o.raw_id, o.raw_ordinal,
        cast(sum(case when o.raw_ordinal > 0 then 1 else 0 end) over (
            partition by m.request_id order by o.received_at, o.raw_id, o.raw_ordinal rows between unbounded preceding and current row
        ) as integer) as counted,
        row_number() over (partition by m.request_id order by o.received_at desc, o.raw_id desc, o.raw_ordinal desc) as place_from_end,
        row_number() over (
            partition by m.request_id
            order by case when o.raw_ordinal > 0 then 0 else 1 end, case when o.outcome = 'ok' then 0 else 1 end,
                o.received_at desc, o.raw_id desc, o.raw_ordinal desc
        ) as place_to_stand
    from outcomes o join members m on o.raw_id = m.raw_id
    where m.request_id in (select request_id from several)
),
numbered as (
    select
        t.*,
        coalesce(p.counted, case when t.raw_ordinal > 0 then 1 else 0 end) as counted,
        coalesce(p.place_from_end, 1) as place_from_end,
        t.raw_ordinal > 0 and coalesce(p.place_to_stand, 1) = 1 as stands,
        p.raw_id is null as is_only
    from their_tries t left join placed p on t.raw_id = p.raw_id and t.raw_ordinal = p.raw_ordinal
),
steps as (
    select
        * exclude (counted, reason),
        case when raw_ordinal = 0 then 0 else counted end as ordinal,
        case
            when raw_ordinal = 0 then null
            when counted = 1 then 'first'
            when coalesce(reason, 'first') = 'first' then 'client_retry'
            else reason
        end as reason
    from numbered
)
select * from steps
