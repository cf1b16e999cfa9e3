-- The change log: what was committed and others must learn, in the order of the commits. See docs/decisions.

-- What a transaction has to tell. It is filled and emptied within the transaction, so nothing of it need outlive a crash.
CREATE UNLOGGED TABLE pending_changes (
    transaction bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
    place bigint GENERATED ALWAYS AS IDENTITY,
    fleet_id text,
    vehicle integer,
    kind text NOT NULL,
    subject text,
    public jsonb,
    internal jsonb,
    PRIMARY KEY (transaction, place)
);

-- No identity: the number is given under the lock of `log_changes`, so that it rises in the order of the commits.
CREATE SEQUENCE change_numbers;

CREATE TABLE changes (
    number bigint NOT NULL,
    -- Random, so that a reader notices a database that went back and gave the number to another change.
    mark bigint NOT NULL,
    at timestamptz NOT NULL,
    -- Whoever made the change waits until its own hub has applied it.
    transaction bigint NOT NULL,
    fleet_id text,
    -- Of every change that names a vehicle, for its erasure. No foreign key: the change outlives the vehicle.
    vehicle integer,
    kind text NOT NULL,
    -- NULL: erased, or nothing in particular.
    subject text,
    -- What integrators may see: the thing as HTTP shows it. NULL: nothing, or it is read elsewhere (events).
    public jsonb,
    -- What hubs need besides.
    internal jsonb,
    PRIMARY KEY (number, at)
) PARTITION BY RANGE (at);

-- So that no change fails for want of a partition; those of days are made by the hub.
CREATE TABLE changes_default PARTITION OF changes DEFAULT;

CREATE INDEX changes_by_fleet ON changes (fleet_id, number) WHERE fleet_id IS NOT NULL;
CREATE INDEX changes_by_vehicle ON changes (vehicle) WHERE vehicle IS NOT NULL;
-- The erasure of a trip.
CREATE INDEX changes_by_subject ON changes (subject) WHERE subject IS NOT NULL;

-- Moves what the transaction has to tell into the log. It runs inside COMMIT, on the server: a client that is stopped in the
-- middle of its transaction does not hold the lock, and no round trip happens under it.
CREATE FUNCTION log_changes() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last bigint;
BEGIN
    -- It runs for each row. The first moves them all, and notes how far: to look for what is left would walk over all that were
    -- moved. The note goes with the transaction, and what is rolled back to a savepoint takes it along.
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

CREATE CONSTRAINT TRIGGER log_changes AFTER INSERT ON pending_changes
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION log_changes();

-- The instant at which a trip's span begins or ends: the database's clock, which all hubs share. Where that is far from the
-- hub's, one of them is wrong, and the hub's is taken, which its fixes are judged by.
CREATE FUNCTION span_instant (of_hub timestamptz) RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT date_trunc('milliseconds', CASE
        WHEN abs(extract(epoch FROM clock_timestamp() - of_hub)) <= 1 THEN clock_timestamp()
        ELSE of_hub
    END)
$$;
