-- One row is one month and API key: what went through it.
-- check: requests > 0
with limits as (
    select p.period, k.id, k.monthly_limit
    from book_key k
    join book_period p
        on coalesce(k.valid_from, timestamp '0001-01-01 00:00:00') < p.ends_at
        and coalesce(k.valid_to, timestamp '9999-12-31 00:00:00') > p.starts_at
    where p.period = p.service_period
    qualify row_number() over (partition by p.period, k.id order by coalesce(k.valid_from, timestamp '0001-01-01 00:00:00') desc) = 1
),
sums as (
    select
        period, api_key_id, api_key_label, user_id, project, wallet, currency,
        cast(count(*) as bigint) as requests,
        cast(sum(case when status = 'ok' then 1 else 0 end) as bigint) as ok,
        cast(sum(case when status = 'rejected' then 1 else 0 end) as bigint) as rejected,
        cast(sum(input_tokens) as bigint) as input_tokens,
        cast(sum(output_tokens) as bigint) as output_tokens,
        cast(sum(final_charge) as decimal(38,12)) as charged,
        cast(sum(case when final_charge is null then 1 else 0 end) as bigint) as unpriced,
        min(created_at) as first_used_at,
        max(created_at) as last_used_at
    from ledger where period in (select period from book_period)
    group by period, api_key_id, api_key_label, user_id, project, wallet, currency
)
select
    s.period, s.api_key_id, s.api_key_label, s.user_id, s.project, s.wallet, s.requests, s.ok, s.rejected,
    s.input_tokens, s.output_tokens, s.charged, s.unpriced, cast(l.monthly_limit as decimal(38,12)) as monthly_limit,
    s.first_used_at, s.last_used_at, s.currency
from sums s left join limits l on s.period = l.period and s.api_key_id = l.id
