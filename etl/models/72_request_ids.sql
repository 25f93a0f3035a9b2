-- One row is one id under which a logical request can be looked up.
-- check: id is not null and kind is not null and request_id is not null
with chosen as (
    select m.request_id, h.kind, json_extract_string(r.headers, '$."' || h.header || '"') as id
    from members m
    join received r on m.raw_id = r.raw_id
    join headings n on n.side = 'request' and r.heading = n.heading
    join table_request_ids h on h.side = 'request' and n.name = h.header
),
answered as (
    select s.request_id, h.kind, json_extract_string(s.headers, '$."' || h.header || '"') as id
    from steps s
    join headings n on n.side = 'response' and s.heading = n.heading
    join table_request_ids h on h.side = 'response' and n.name = h.header
),
every as (
    select request_id as id, 'request' as kind, request_id from requests_created
    union all
    select raw_id as id, 'linked' as kind, request_id from members where raw_id <> request_id
    union all
    select t.twin_id as id, 'linked' as kind, m.request_id from twins t join members m on t.kept_id = m.raw_id
    union all
    select id, kind, request_id from chosen where id <> ''
    union all
    select id, kind, request_id from answered where id <> ''
    union all
    select value as id, 'upstream_request_id' as kind, request_id from evidence where fact in ('request_id', 'gateway_request_id', 'provider_request_id')
    union all
    select response_id as id, 'response_id' as kind, request_id from steps where response_id <> ''
    union all
    select entry_id as id, 'wallet_entry_id' as kind, request_id from charge_legs where wallet is not null
)
select distinct id, kind, request_id from every
