-- One row is one recorded event: entries that people made, losses and their acknowledgement, starts and stops of proxies.
-- check: event is not null
select
    e.event_id, e.at, p.period, e.event, e.actor, e.reason, e.reference, e.about_id as request_id, e.facts,
    case when e.moves_money and e.fault is null then e.transaction_id end as transaction_id
from admin_events e left join book_period p on e.at >= p.starts_at and e.at < p.ends_at
