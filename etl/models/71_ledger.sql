-- One row is one logical request: what one call of an application asked, got and cost, with a digest of all of it. The digest's
-- text is one line a column in the contract's order, `name=value`, or `name` alone for a null.
-- check: regexp_matches(receipt_digest, '^[0-9a-f]{64}$')
-- check: select request_id from ledger group by request_id having count(*) > 1
select
    *,
    sha256(
        'request_id' || coalesce('=' || request_id, '') || chr(10) ||
        'created_at' || coalesce('=' || strftime(created_at, '%Y-%m-%dT%H:%M:%S.%fZ'), '') || chr(10) ||
        'period' || coalesce('=' || period, '') || chr(10) ||
        'user_id' || coalesce('=' || user_id, '') || chr(10) ||
        'project' || coalesce('=' || project, '') || chr(10) ||
        'api_key_id' || coalesce('=' || api_key_id, '') || chr(10) ||
        'api_key_label' || coalesce('=' || api_key_label, '') || chr(10) ||
        'run_id' || coalesce('=' || run_id, '') || chr(10) ||
        'tags' || coalesce('=' || tags, '') || chr(10) ||
        'endpoint' || coalesce('=' || endpoint, '') || chr(10) ||
        'public_model' || coalesce('=' || public_model, '') || chr(10) ||
        'api_model' || coalesce('=' || api_model, '') || chr(10) ||
        'upstream_model' || coalesce('=' || upstream_model, '') || chr(10) ||
        'served_model' || coalesce('=' || served_model, '') || chr(10) ||
        'route' || coalesce('=' || route, '') || chr(10) ||
        'primary_channel' || coalesce('=' || primary_channel, '') || chr(10) ||
        'backup_channel' || coalesce('=' || backup_channel, '') || chr(10) ||
        'served_channel' || coalesce('=' || served_channel, '') || chr(10) ||
        'attempt_count' || coalesce('=' || cast(attempt_count as varchar), '') || chr(10) ||
        'retry_count' || coalesce('=' || cast(retry_count as varchar), '') || chr(10) ||
        'fallback_count' || coalesce('=' || cast(fallback_count as varchar), '') || chr(10) ||
        'status' || coalesce('=' || status, '') || chr(10) ||
        'outcome' || coalesce('=' || outcome, '') || chr(10) ||
        'http_status' || coalesce('=' || cast(http_status as varchar), '') || chr(10) ||
        'input_tokens' || coalesce('=' || cast(input_tokens as varchar), '') || chr(10) ||
        'cached_input_tokens' || coalesce('=' || cast(cached_input_tokens as varchar), '') || chr(10) ||
        'cache_write_tokens' || coalesce('=' || cast(cache_write_tokens as varchar), '') || chr(10) ||
        'output_tokens' || coalesce('=' || cast(output_tokens as varchar), '') || chr(10) ||
        'reasoning_tokens' || coalesce('=' || cast(reasoning_tokens as varchar), '') || chr(10) ||
        'usage_source' || coalesce('=' || usage_source, '') || chr(10) ||
        'input_price_per_mtok' || coalesce('=' || cast(input_price_per_mtok as varchar), '') || chr(10) ||
        'output_price_per_mtok' || coalesce('=' || cast(output_price_per_mtok as varchar), '') || chr(10) ||
        'list_charge' || coalesce('=' || cast(list_charge as varchar), '') || chr(10) ||
        'final_charge' || coalesce('=' || cast(final_charge as varchar), '') || chr(10) ||
        'vendor_charge' || coalesce('=' || cast(vendor_charge as varchar), '') || chr(10) ||
        'currency' || coalesce('=' || currency, '') || chr(10) ||
        'balance_bucket' || coalesce('=' || balance_bucket, '') || chr(10) ||
        'wallet' || coalesce('=' || wallet, '') || chr(10) ||
        'failed_request_policy' || coalesce('=' || failed_request_policy, '') || chr(10) ||
        'wallet_entry_id' || coalesce('=' || wallet_entry_id, '') || chr(10) ||
        'adjustment_amount' || coalesce('=' || cast(adjustment_amount as varchar), '') || chr(10) ||
        'adjustment_reason' || coalesce('=' || adjustment_reason, '') || chr(10) ||
        'latency_ms' || coalesce('=' || cast(latency_ms as varchar), '') || chr(10) ||
        'first_token_ms' || coalesce('=' || cast(first_token_ms as varchar), '') || chr(10) ||
        'fallback_latency_ms' || coalesce('=' || cast(fallback_latency_ms as varchar), '') || chr(10) ||
        'client_request_id' || coalesce('=' || client_request_id, '') || chr(10) ||
        'upstream_request_id' || coalesce('=' || upstream_request_id, '') || chr(10) ||
        'door' || coalesce('=' || door, '') || chr(10) ||
        'savings' || coalesce('=' || cast(savings as varchar), '') || chr(10) ||
        'leakage' || coalesce('=' || cast(leakage as varchar), '') || chr(10) ||
        'vendor_difference' || coalesce('=' || cast(vendor_difference as varchar), '') || chr(10)
    ) as receipt_digest
from ledger_facts
