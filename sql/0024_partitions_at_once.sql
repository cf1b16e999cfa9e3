-- Two sessions may make the same day at once. The second waits for the first, and then did not see its table: a session looks up
-- anew what it did not find only where it locks a table in between. It tried to make it once more, and failed.
CREATE OR REPLACE FUNCTION ensure_positions_partition (day date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    partition_name text := 'positions_' || to_char(day, 'YYYYMMDD');
BEGIN
    IF to_regclass(partition_name) IS NOT NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('tracking.positions_partition'));
    EXECUTE format(
        'CREATE TABLE %I PARTITION OF positions FOR VALUES FROM (%L) TO (%L)',
        partition_name,
        day::timestamp AT TIME ZONE 'UTC',
        (day + 1)::timestamp AT TIME ZONE 'UTC'
    );
EXCEPTION WHEN duplicate_table THEN
    -- The other one has made it.
    NULL;
END
$$;
