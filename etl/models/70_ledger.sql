-- One row is one logical request: what one call of an application asked, got and cost, with a digest of all of it. The digest's
-- text is one line a column in the contract's order, `name=value`, or `name` alone for a null.
-- check: regexp_matches(receipt_digest, '^[0-9a-f]{64}$')
-- check: unique request_id
-- check: status in ('ok', 'failed', 'client_gone', 'rejected', 'unknown')
-- check: period is not null and wallet is not null and usage_source is not null
-- check: select count(*) from ledger having count(*) is distinct from (select count(distinct request_id) from members)
-- check: select f.request_id from ledger f left join (select request_id, sum(amount) as amount from charges group by request_id) c on f.request_id = c.request_id where f.final_charge is not null and f.final_charge is distinct from coalesce(c.amount, 0)
-- check: select f.request_id from ledger f left join (select request_id, -sum(amount) as amount from journal where wallet is not null and kind = 'charge' group by request_id) j on f.request_id = j.request_id where f.final_charge is not null and f.final_charge is distinct from coalesce(j.amount, 0)
-- check: (savings is null) = (status <> 'ok' or list_charge is null or final_charge is null)
-- check: coalesce(latency_ms, 0) >= 0 and coalesce(first_token_ms, 0) >= 0 and coalesce(fallback_latency_ms, 0) >= 0
with policy_places as (
    select request_id, policy, min(raw_id || '/' || lpad(cast(raw_ordinal as varchar), 6, '0')) as place
    from policies where policy is not null group by request_id, policy
),
policy_names as (
    select request_id, string_agg(policy, '; ' order by place, policy) as failed_request_policy from policy_places group by request_id
),
adjustments as (
    select
        request_id, cast(sum(amount) as decimal(38,12)) as adjustment_amount,
        string_agg(reason, '; ' order by posted_at, entry_id) as adjustment_reason
    from (
        select request_id, amount, reason, posted_at, entry_id from admin_legs where wallet is not null and kind in ('adjustment', 'refund')
        union all
        select request_id, amount, reason, posted_at, entry_id from reversal_legs where wallet is not null
    )
    where request_id is not null
    group by request_id
),
model_primaries as (
    select api, channel from book_model_channel where position = 0
),
facts as (
    select
        f.request_id, f.created_at, f.period,
        c.user_id, c.project, c.api_key_id, c.api_key_label, c.run_id, c.tags,
        f.endpoint,
        coalesce(b.public, f.api_model) as public_model,
        f.api_model,
        t.sent_model as upstream_model, t.served_model,
        h.route,
        case when f.door = 'gateway' then coalesce(mp.channel, t.first_channel) else t.first_channel end as primary_channel,
        t.backup_channel,
        case when t.is_served then t.channel end as served_channel,
        coalesce(t.attempt_count, 0) as attempt_count,
        coalesce(t.retry_count, 0) as retry_count,
        coalesce(t.fallback_count, 0) as fallback_count,
        case
            when t.last_outcome is null or t.last_outcome = 'unknown' then 'unknown'
            when t.last_outcome in ('ok', 'client_gone') then t.last_outcome
            when t.last_outcome = 'rejected_by_proxy' then 'rejected'
            else 'failed'
        end as status,
        coalesce(t.last_outcome, 'unknown') as outcome,
        cast(t.last_status as integer) as http_status,
        t.input_tokens, t.cached_input_tokens, t.cache_write_tokens, t.output_tokens, t.reasoning_tokens,
        coalesce(t.usage_source, 'none') as usage_source,
        cast(t.input_unit_price * cast(1000000 as decimal(18,0)) as decimal(38,12)) as input_price_per_mtok,
        cast(t.output_unit_price * cast(1000000 as decimal(18,0)) as decimal(38,12)) as output_price_per_mtok,
        case when k.request_id is null then cast(0 as decimal(38,12)) else k.list_charge end as list_charge,
        case when k.request_id is null then cast(0 as decimal(38,12)) else k.final_charge end as final_charge,
        k.vendor_charge,
        st.currency,
        h.bucket as balance_bucket,
        c.wallet,
        pn.failed_request_policy,
        t.entry_id as wallet_entry_id,
        a.adjustment_amount, a.adjustment_reason,
        -- where the clock went back meanwhile, a duration is not known
        case when t.last_closed_at >= f.created_at then date_diff('microsecond', f.created_at, t.last_closed_at) // 1000 end as latency_ms,
        case when t.is_served and t.first_token_at >= f.created_at then date_diff('microsecond', f.created_at, t.first_token_at) // 1000 end as first_token_ms,
        case when t.fallback_count > 0 and t.channel_opened_at >= t.first_opened_at then date_diff('microsecond', t.first_opened_at, t.channel_opened_at) // 1000 end as fallback_latency_ms,
        f.client_request_id, t.upstream_request_id, f.door,
        case when k.request_id is null then cast(0 as decimal(38,12)) else k.leakage end as leakage
    from requests_created f
    cross join setting st
    join callers c on f.request_id = c.request_id
    left join request_tries t on f.request_id = t.request_id
    left join request_costs k on f.request_id = k.request_id
    left join book_channel h on t.channel = h.name
    left join policy_names pn on f.request_id = pn.request_id
    left join adjustments a on f.request_id = a.request_id
    left join book_model b on f.api_model = b.api
    left join model_primaries mp on f.api_model = mp.api
),
compared as (
    select
        *,
        case when status = 'ok' then cast(list_charge - final_charge as decimal(38,12)) end as savings,
        cast(vendor_charge - final_charge as decimal(38,12)) as vendor_difference
    from facts
)
select
    *,
    sha256(concat(
        'request_id', coalesce('=' || request_id, ''), chr(10),
        'created_at', coalesce('=' || strftime(created_at, '%Y-%m-%dT%H:%M:%S.%fZ'), ''), chr(10),
        'period', coalesce('=' || period, ''), chr(10),
        'user_id', coalesce('=' || user_id, ''), chr(10),
        'project', coalesce('=' || project, ''), chr(10),
        'api_key_id', coalesce('=' || api_key_id, ''), chr(10),
        'api_key_label', coalesce('=' || api_key_label, ''), chr(10),
        'run_id', coalesce('=' || run_id, ''), chr(10),
        'tags', coalesce('=' || tags, ''), chr(10),
        'endpoint', coalesce('=' || endpoint, ''), chr(10),
        'public_model', coalesce('=' || public_model, ''), chr(10),
        'api_model', coalesce('=' || api_model, ''), chr(10),
        'upstream_model', coalesce('=' || upstream_model, ''), chr(10),
        'served_model', coalesce('=' || served_model, ''), chr(10),
        'route', coalesce('=' || route, ''), chr(10),
        'primary_channel', coalesce('=' || primary_channel, ''), chr(10),
        'backup_channel', coalesce('=' || backup_channel, ''), chr(10),
        'served_channel', coalesce('=' || served_channel, ''), chr(10),
        'attempt_count', coalesce('=' || cast(attempt_count as varchar), ''), chr(10),
        'retry_count', coalesce('=' || cast(retry_count as varchar), ''), chr(10),
        'fallback_count', coalesce('=' || cast(fallback_count as varchar), ''), chr(10),
        'status', coalesce('=' || status, ''), chr(10),
        'outcome', coalesce('=' || outcome, ''), chr(10),
        'http_status', coalesce('=' || cast(http_status as varchar), ''), chr(10),
        'input_tokens', coalesce('=' || cast(input_tokens as varchar), ''), chr(10),
        'cached_input_tokens', coalesce('=' || cast(cached_input_tokens as varchar), ''), chr(10),
        'cache_write_tokens', coalesce('=' || cast(cache_write_tokens as varchar), ''), chr(10),
        'output_tokens', coalesce('=' || cast(output_tokens as varchar), ''), chr(10),
        'reasoning_tokens', coalesce('=' || cast(reasoning_tokens as varchar), ''), chr(10),
        'usage_source', coalesce('=' || usage_source, ''), chr(10),
        'input_price_per_mtok', coalesce('=' || cast(input_price_per_mtok as varchar), ''), chr(10),
        'output_price_per_mtok', coalesce('=' || cast(output_price_per_mtok as varchar), ''), chr(10),
        'list_charge', coalesce('=' || cast(list_charge as varchar), ''), chr(10),
        'final_charge', coalesce('=' || cast(final_charge as varchar), ''), chr(10),
        'vendor_charge', coalesce('=' || cast(vendor_charge as varchar), ''), chr(10),
        'currency', coalesce('=' || currency, ''), chr(10),
        'balance_bucket', coalesce('=' || balance_bucket, ''), chr(10),
        'wallet', coalesce('=' || wallet, ''), chr(10),
        'failed_request_policy', coalesce('=' || failed_request_policy, ''), chr(10),
        'wallet_entry_id', coalesce('=' || wallet_entry_id, ''), chr(10),
        'adjustment_amount', coalesce('=' || cast(adjustment_amount as varchar), ''), chr(10),
        'adjustment_reason', coalesce('=' || adjustment_reason, ''), chr(10),
        'latency_ms', coalesce('=' || cast(latency_ms as varchar), ''), chr(10),
        'first_token_ms', coalesce('=' || cast(first_token_ms as varchar), ''), chr(10),
        'fallback_latency_ms', coalesce('=' || cast(fallback_latency_ms as varchar), ''), chr(10),
        'client_request_id', coalesce('=' || client_request_id, ''), chr(10),
        'upstream_request_id', coalesce('=' || upstream_request_id, ''), chr(10),
        'door', coalesce('=' || door, ''), chr(10),
        'savings', coalesce('=' || cast(savings as varchar), ''), chr(10),
        'leakage', coalesce('=' || cast(leakage as varchar), ''), chr(10),
        'vendor_difference', coalesce('=' || cast(vendor_difference as varchar), ''), chr(10)
    )) as receipt_digest
from compared
