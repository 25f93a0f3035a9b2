-- One row is one model that only an answer names (a part that another model made, a line of a batch's output, a job that was asked
-- for elsewhere) and the model whose prices count for it on a channel: itself where the book prices it there, else the name
-- without its date where the book prices that, else itself, which then has no price. is_assumed marks the second.
-- check: priced_model is not null and is_assumed is not null
-- check: unique channel, model
with told as (
    select distinct s.channel, o.model
    from usage_objects o join steps s on o.raw_id = s.raw_id and o.raw_ordinal = s.raw_ordinal
    where o.model is not null and s.channel is not null
    union
    select distinct channel, served_model from steps where job is not null and channel is not null and served_model <> ''
),
undated as (
    select t.channel, t.model, regexp_replace(t.model, '(?:' || r.snapshots || ')$', '') as base
    from told t cross join (select string_agg(pattern, '|') as snapshots from table_model_names where kind = 'snapshot') r
),
priced as (
    select distinct channel, model from book_rate where book = 'charge'
),
names as (
    select
        u.channel, u.model, u.base,
        count(case when p.model = u.model then 1 end) > 0 as has_own,
        count(case when p.model = u.base then 1 end) > 0 as has_base
    from undated u left join priced p on p.model in (u.model, u.base) and (p.channel = '*' or p.channel = u.channel)
    group by u.channel, u.model, u.base
),
priced_models as (
    select
        channel, model, case when has_base and not has_own then base else model end as priced_model, has_base and not has_own as is_assumed
    from names
)
select * from priced_models
