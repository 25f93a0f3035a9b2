-- One row is one try that failed and the policy row in force when its request began: the one that names the channel before
-- the one for any channel. Without such a row policy_id is null, and the charge is not known.
-- check: unique raw_id, raw_ordinal
with failed as (
    select request_id, raw_id, raw_ordinal, ordinal, channel, outcome, received_at
    from steps where outcome not in ('ok', 'unknown')
),
policies as (
    select
        f.request_id, f.raw_id, f.raw_ordinal, f.ordinal, f.channel, f.outcome,
        p.policy_id, p.policy, p.charge, p.flat_amount, p.effective_from
    from failed f
    left join book_policy p
        on p.outcome = f.outcome
        and (p.channel = '*' or p.channel = f.channel)
        and f.received_at >= p.effective_from
        and f.received_at < coalesce(p.effective_to, timestamp '9999-12-31 00:00:00')
    qualify row_number() over (
        partition by f.raw_id, f.raw_ordinal
        order by case when p.channel = '*' then 1 else 0 end, p.effective_from desc, p.policy_id
    ) = 1
)
select * from policies
