-- One row is one logical request with the credential it came with and the row of the key registry that held for it when it came, all
-- null where none did. It is the first try's: a request has one key, whatever its retries say.
-- check: unique request_id
with request_keys as (
    select m.request_id, r.credential, k.id, k.label, k.user, k.project, k.wallet, k.trusted
    from members m
    join received r on m.raw_id = r.raw_id
    left join book_key k
        on r.credential = k.fingerprint
        and r.received_at >= coalesce(k.valid_from, timestamp '0001-01-01 00:00:00')
        and r.received_at < coalesce(k.valid_to, timestamp '9999-12-31 00:00:00')
    where m.position = 1
    qualify row_number() over (partition by m.request_id order by k.id, k.valid_from) = 1
)
select * from request_keys
