-- A transaction of many changes: the first row moves them all, and the others have nothing to look for. A look for each would
-- walk over all that were moved, under the lock that every other writer waits for.
CREATE OR REPLACE FUNCTION log_changes() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last bigint;
BEGIN
    -- Of this transaction: it is gone with it, and what is rolled back to a savepoint takes it along.
    IF NEW.place <= coalesce(nullif(current_setting('tracking.moved', true), ''), '0')::bigint THEN
        RETURN NULL;
    END IF;
    -- Held until the transaction is over and seen: who gets the next number is seen after it.
    PERFORM pg_advisory_xact_lock(hashtext('tracking.changes'));
    WITH moved AS (
        DELETE FROM pending_changes WHERE transaction = NEW.transaction RETURNING *
    ), logged AS (
        INSERT INTO changes (number, mark, at, transaction, fleet_id, vehicle, kind, subject, public, internal)
        SELECT
            nextval('change_numbers'), (random() * 9007199254740991)::bigint, clock_timestamp(), m.transaction,
            m.fleet_id, m.vehicle, m.kind, m.subject, m.public, m.internal
        FROM (SELECT * FROM moved ORDER BY place) m
    )
    SELECT max(place) INTO last FROM moved;
    PERFORM set_config('tracking.moved', last::text, true);
    -- A wake-up, no more: readers read the table.
    PERFORM pg_notify('changes', '');
    RETURN NULL;
END
$$;
