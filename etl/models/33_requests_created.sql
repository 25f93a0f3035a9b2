-- One row is one logical request with the instant it was created: when the first request for it reached a door.
-- check: created_at is not null
-- check: select count(*) from requests_created having count(*) is distinct from (select count(distinct request_id) from members)
select request_id, received_at as created_at from members where position = 1
