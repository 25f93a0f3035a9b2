-- One row is one try with its outcome: the first line of the table below that fits. A terminal marker decides success
-- even where the client closed its socket right after it, as the official Python SDK does after [DONE]: the doors record
-- that a client left only while something was still owed to it. A reply that was read to its end for its usage after the
-- client had left is therefore a client's leaving, with a reported usage.
-- Words where counts are owed, and a web page anywhere, are no reply but what stood in its way (a captive portal, a gateway's page of errors).
-- A whole reply that could not be read is not called empty: what it held, and so its charge, is unknown.
-- check: outcome in ('ok', 'error_before_output', 'error_mid_stream', 'client_gone', 'timeout', 'rate_limited', 'refused_no_output', 'refused_with_output', 'empty_reply', 'rejected_by_proxy', 'unknown')
-- check: select count(*) from outcomes having count(*) is distinct from (select count(*) from tries)
with facts as (
    select
        t.* exclude (error_event),
        -- a line of a file may tell of an error that is not this call's; OpenRouter may tell of one as the reason of the end alone
        (t.error_event or regexp_matches(coalesce(t.finish_reasons, ''), '(^| )error( |$)')) and r.job is distinct from 'output' as error_event,
        r.received_at, r.endpoint, r.billing, r.job, r.endpoint_tier, r.owes, r.body_facts,
        r.expects_output and not (r.job is not null and coalesce(json_extract_string(t.facts, '$.status'), '') in ('queued', 'in_progress')) as expects_output,
        (t.http_status between 200 and 299 or t.http_status = 101) as is_success,
        t.terminal is not null or t.ending = 'complete' as is_whole,
        regexp_matches(coalesce(t.finish_reasons, ''), '(^| )(content_filter|content_filtered|guardrail_intervened|refusal|(IMAGE_)?(SAFETY|RECITATION|PROHIBITED_CONTENT)|BLOCKLIST|SPII)( |$)') as is_refusal,
        coalesce(t.is_words, false) and (r.owes is not null or t.content_type = 'text/html') and r.billing in ('usage', 'poll') and r.job is distinct from 'output' as is_page,
        coalesce(json_extract_string(t.error_object, '$.code'), json_extract_string(t.error_object, '$.error.code'), '') as error_code
    from tries t join received r on t.raw_id = r.raw_id
),
outcomes as (
    select
        *,
        case
            when raw_ordinal = 0                                             then 'rejected_by_proxy'
            when not is_closed                                               then 'unknown'
            when http_status = 429                                           then 'rate_limited'
            when http_status = 400 and error_code = 'content_filter'         then 'refused_no_output'
            when http_status in (408, 504)                                   then 'timeout'
            when http_status is not null and not is_success                  then 'error_before_output'
            when is_success and error_event and output_seen                  then 'error_mid_stream'
            when is_success and error_event                                  then 'error_before_output'
            when is_success and is_page                                      then 'error_before_output'
            when is_success and client_gone_at is not null                   then 'client_gone'
            when is_success and is_whole and is_refusal and output_seen      then 'refused_with_output'
            when is_success and is_whole and is_refusal                      then 'refused_no_output'
            when is_success and is_whole and expects_output and not output_seen and body_state in ('read', 'none') then 'empty_reply'
            when is_success and is_whole                                     then 'ok'
            when ending = 'client_gone'                                      then 'client_gone'
            when ending = 'timeout'                                          then 'timeout'
            -- of a JSON body that was cut nothing can be read, and yet it had begun
            when output_seen or (is_success and body_state = 'unreadable')   then 'error_mid_stream'
            else                                                                  'error_before_output'
        end as outcome
    from facts
)
select * from outcomes
