-- One row is the one usage object of a try that counts: of all places where the vendor reported usage, the dialect's first.
-- check: object is not null and dialect is not null
-- check: select raw_id, raw_ordinal from usage_objects group by raw_id, raw_ordinal having count(*) > 1
with places as (
    select dialect, path, min(priority) as priority from table_dialects group by dialect, path
),
seen as (
    select raw_id, raw_ordinal, channel, unnest(usage) as place from steps where usage is not null
),
known as (
    select s.raw_id, s.raw_ordinal, s.place.path as path, s.place.object as object, coalesce(c.usage_dialect, 'openai') as dialect
    from seen s left join book_channel c on s.channel = c.name
),
usage_objects as (
    select k.raw_id, k.raw_ordinal, k.dialect, k.path, k.object
    from known k join places p on k.dialect = p.dialect and k.path = p.path
    qualify row_number() over (partition by k.raw_id, k.raw_ordinal order by p.priority, k.path) = 1
)
select * from usage_objects
