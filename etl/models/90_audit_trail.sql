-- One row is one recorded event: entries that people made, losses and their acknowledgement, starts and stops of proxies.
-- Its place in the chain and its hashes are worked out by etl/audit.py, over closed months too.
-- check: event is not null
select
    e.event_id, e.at, p.period, e.event, e.actor, e.reason, e.reference, e.about_id as request_id, e.facts,
    case when e.moves_money and e.fault is null then e.transaction_id when r.fault is null then r.transaction_id end as transaction_id,
    cast(null as bigint) as number, cast(null as varchar) as prev_hash, cast(null as varchar) as hash
from admin_events e
left join reversals r on e.event_id = r.event_id
left join book_period p on e.at >= p.starts_at and e.at < p.ends_at
