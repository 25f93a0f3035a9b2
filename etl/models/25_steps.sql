-- One row is one try within its logical request: numbered over all requests that the SDK's retries made of it, with the reason
-- it was made. Ordinal 0 marks a request that the proxy refused before any try.
-- check: reason is not null or ordinal = 0
-- check: select request_id, ordinal from steps where ordinal > 0 group by request_id, ordinal having count(*) > 1
with tries as (
    select o.*, m.request_id, m.position
    from outcomes o join members m on o.raw_id = m.raw_id
),
numbered as (
    select
        *,
        cast(sum(case when raw_ordinal > 0 then 1 else 0 end) over (
            partition by request_id order by received_at, raw_id, raw_ordinal rows between unbounded preceding and current row
        ) as integer) as counted,
        row_number() over (partition by request_id order by received_at desc, raw_id desc, raw_ordinal desc) as place_from_end
    from tries
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
