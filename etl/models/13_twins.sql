-- One row is one request recorded at the forward door that the gateway door recorded too: one call of an application, seen
-- twice. The gateway's record is kept, for it knows the channels it tried; the other is a duplicate of it and costs nothing.
-- Three rules, and each needs more than an equal id, because vendors repeat ids and ids can be forged:
-- named: the answer that the forward door relayed names the gateway's request (x-ledger-request-id), whose body and credential
-- are the same and which began while the forward door was waiting.
-- nested: one door's try went to the host at which the other was asked; the other began while that try still waited for the
-- answer's head, and ended within it, with the same non-empty vendor id (in the body, else in the headers), status and usage;
-- and no third request carries that id.
-- unanswered: as nested, where the inner try had no answer and so no id: then the bodies and the paths are equal, the outer try
-- learnt no more than that (nothing, or the forward door's own 502), and neither has a second counterpart.
-- check: twin_id is not null and kept_id is not null and rule in ('named', 'nested', 'unanswered')
-- check: unique twin_id
-- check: select twin_id from twins where twin_id in (select kept_id from twins)
with answers as (
    select
        o.raw_id, o.raw_ordinal, r.door, r.received_at, r.path, regexp_extract(o.url, '^[a-z]+://[^/]+([^?]*)', 1) as sent_path, r.credential, r.match_sha256, o.billing, o.opened_at, o.closed_at, o.http_status,
        coalesce(o.headers_at, o.closed_at) as answered_at, o.usage,
        regexp_replace(lower(r.host), ':(80|443)$', '') as asked_host,
        regexp_replace(lower(regexp_extract(o.url, '^[a-z]+://([^/]+)', 1)), ':(80|443)$', '') as sent_host,
        json_extract_string(o.headers, '$."x-ledger-request-id"') as names_id,
        coalesce(
            'body ' || nullif(o.response_id, ''),
            'header ' || nullif(coalesce(json_extract_string(o.headers, '$."x-request-id"'), json_extract_string(o.headers, '$."request-id"')), '')
        ) as vendor_id
    from outcomes o join received r on o.raw_id = r.raw_id
    where o.raw_ordinal > 0 and r.door in ('forward', 'gateway')
),
named as (
    select f.raw_id as twin_id, g.raw_id as kept_id, 'named' as rule
    from answers f
    join received g on f.names_id = g.raw_id
    where f.door = 'forward' and g.door = 'gateway'
        and g.received_at >= f.opened_at and g.received_at <= coalesce(f.closed_at, g.received_at)
        and f.match_sha256 is not distinct from g.match_sha256 and f.credential is not distinct from g.credential
),
carried as (
    select vendor_id from answers where vendor_id is not null and billing <> 'free'
    group by vendor_id having count(distinct raw_id) = 2 and count(distinct door) = 2
),
waiting as (
    select a.* from answers a join carried c on a.vendor_id = c.vendor_id where a.billing <> 'free' and a.closed_at is not null
),
nested as (
    select
        case when o.door = 'forward' then o.raw_id else i.raw_id end as twin_id,
        case when o.door = 'forward' then i.raw_id else o.raw_id end as kept_id,
        'nested' as rule
    from waiting o
    join waiting i on o.vendor_id = i.vendor_id and o.door <> i.door and o.sent_host = i.asked_host
    where o.opened_at <= i.received_at
        and i.received_at <= o.answered_at and i.answered_at <= o.answered_at
        and i.closed_at <= o.closed_at + interval 1 second
        and o.http_status is not distinct from i.http_status
        and o.usage is not distinct from i.usage
),
pairs as (
    select o.raw_id as outer_id, o.raw_ordinal as outer_ordinal, o.door as outer_door, i.raw_id as inner_id
    from answers o
    join answers i
        on o.match_sha256 = i.match_sha256 and o.door <> i.door and o.sent_host = i.asked_host and o.sent_path = i.path
    where o.vendor_id is null and i.vendor_id is null and i.http_status is null and coalesce(o.http_status, 502) = 502
        and o.billing <> 'free' and o.opened_at <= i.received_at and i.received_at <= o.closed_at
        and coalesce(i.closed_at, i.received_at) <= o.closed_at + interval 1 second
),
alone as (
    select
        *,
        count(*) over (partition by outer_id, outer_ordinal) as inners, count(*) over (partition by inner_id) as outers
    from pairs
),
unanswered as (
    select
        case when outer_door = 'forward' then outer_id else inner_id end as twin_id,
        case when outer_door = 'forward' then inner_id else outer_id end as kept_id,
        'unanswered' as rule
    from alone where inners = 1 and outers = 1
),
twins as (
    select twin_id, kept_id, rule from (select * from named union all select * from nested union all select * from unanswered)
    qualify row_number() over (partition by twin_id order by rule, kept_id) = 1
)
select * from twins
