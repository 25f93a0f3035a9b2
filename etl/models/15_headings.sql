-- One row is one name in one of the sets of names that headers were recorded with. Sets are few and messages are many: what asks
-- for a header by its name asks here which messages have it, and takes only those apart.
-- check: side in ('request', 'response') and heading is not null and name is not null
-- check: unique side, heading, name
with sets as (
    select 'request' as side, heading, min(headers) as headers from received group by heading
    union all
    select 'response' as side, heading, min(headers) as headers from tries where heading is not null group by heading
)
select distinct side, heading, unnest(json_keys(headers)) as name from sets
