-- One row is one logical request as its first record tells it: when it reached a door, for what, and what its client calls it.
-- check: created_at is not null and period is not null
-- check: select count(*) from requests_created having count(*) is distinct from (select count(distinct request_id) from members)
with firsts as (
    select m.request_id, r.received_at as created_at, p.period, r.endpoint, r.api_model, r.door, r.headers, r.heading
    from members m
    join received r on m.raw_id = r.raw_id
    join book_period p on r.received_at >= p.starts_at and r.received_at < p.ends_at
    where m.position = 1
),
ids as (
    select f.request_id, json_extract_string(f.headers, '$."' || h.header || '"') as client_request_id
    from firsts f
    join headings n on n.side = 'request' and f.heading = n.heading
    join table_request_ids h on h.side = 'request' and n.name = h.header
    where json_extract_string(f.headers, '$."' || h.header || '"') is not null
    qualify row_number() over (partition by f.request_id order by h.priority) = 1
)
select f.* exclude (headers, heading), i.client_request_id
from firsts f left join ids i on f.request_id = i.request_id
