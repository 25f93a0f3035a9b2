-- One row is one journal and how far this ledger has read it.
-- check: last_seq >= 0
select writer, last_seq from source_position
