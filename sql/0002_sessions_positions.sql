-- Driver sessions and the positions they brought.
CREATE TABLE sessions (
    session bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    vehicle integer NOT NULL REFERENCES vehicles ON DELETE CASCADE,
    -- The name that the device gave it.
    name text NOT NULL,
    -- Every seq up to here is stored for good or rejected. Moved in the transaction that stores the fixes.
    handled_seq bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (vehicle, name)
)
-- Room on each page for the update that every commit makes, so that it stays there and touches no index.
WITH (fillfactor = 50);

-- No GiST index: it would cost a quarter of the write rate, and no query asks for raw positions by place.
-- No foreign keys: the session's row, locked by the writer, says whether the vehicle still exists.
CREATE TABLE positions (
    vehicle integer NOT NULL,
    trip integer,
    session bigint NOT NULL,
    seq bigint NOT NULL,
    fix_time timestamptz NOT NULL,
    server_time timestamptz NOT NULL,
    accuracy double precision,
    altitude double precision,
    speed double precision,
    bearing double precision,
    battery double precision,
    point geometry (Point, 4326) NOT NULL,
    -- Why the fix was doubted; NULL where it was not.
    suspect text [],
    -- Every track query is one vehicle over a span of time; session and seq make it the guard against a row twice.
    PRIMARY KEY (vehicle, fix_time, session, seq)
) PARTITION BY RANGE (fix_time);

-- Makes the partition of one UTC day where it is missing. Safe to call from several hubs at once.
CREATE FUNCTION ensure_positions_partition (day date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    partition_name text := 'positions_' || to_char(day, 'YYYYMMDD');
BEGIN
    IF to_regclass(partition_name) IS NOT NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('tracking.positions_partition'));
    IF to_regclass(partition_name) IS NULL THEN
        EXECUTE format(
            'CREATE TABLE %I PARTITION OF positions FOR VALUES FROM (%L) TO (%L)',
            partition_name,
            day::timestamp AT TIME ZONE 'UTC',
            (day + 1)::timestamp AT TIME ZONE 'UTC'
        );
    END IF;
END
$$;

-- The newest plausible position of each vehicle.
CREATE TABLE latest_positions (
    vehicle integer PRIMARY KEY,
    trip integer,
    fix_time timestamptz NOT NULL,
    server_time timestamptz NOT NULL,
    accuracy double precision,
    speed double precision,
    bearing double precision,
    battery double precision,
    point geometry (Point, 4326) NOT NULL
);

-- The nearest vehicles to a place.
CREATE INDEX latest_positions_by_place ON latest_positions USING gist (point);
