-- One row is one meter of one try: gross as the ledger totals it, own as it is charged, and who counted.
-- check: gross >= 0 and own >= 0 and source in ('reported', 'recounted')
-- check: select raw_id, raw_ordinal, meter from usage_lines group by raw_id, raw_ordinal, meter having count(*) > 1
with reported as (
    select u.raw_id, u.raw_ordinal, u.meter, u.gross, u.own, 'reported' as source
    from usage_reported u
    join usage_verdicts v on u.raw_id = v.raw_id and u.raw_ordinal = v.raw_ordinal
    where v.is_reported
),
recounted as (
    select raw_id, raw_ordinal, meter, quantity as gross, quantity as own, 'recounted' as source from recount
),
usage_lines as (
    select * from reported
    union all
    select * from recounted
)
select * from usage_lines
