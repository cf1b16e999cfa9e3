-- What is kept, and for how long; and how much of it a fleet may have.

-- How far the job of each kind has come.
CREATE TABLE retention (
    kind text PRIMARY KEY,
    -- The key after which the next batch begins: a number, or milliseconds since 1970.
    reached bigint NOT NULL DEFAULT 0,
    -- Rows removed until now.
    removed bigint NOT NULL DEFAULT 0,
    -- When it was last through with all that was due.
    swept_at timestamptz
);

-- When a session's number last rose. While one of its fixes may come again, which is seven days, its row is what tells a repeat.
-- No index, also none with `handled_seq` in its condition: each commit moves these rows, and then had to write that index too. Of
-- those from before, it is now.
ALTER TABLE sessions ADD COLUMN moved_at timestamptz NOT NULL DEFAULT now();

-- What is over, in the order in which it goes.
CREATE INDEX trips_over ON trips (ended_at) WHERE status IN ('complete', 'canceled');
CREATE INDEX shares_by_expiry ON shares (expires_at);
CREATE INDEX revoked_tokens_by_expiry ON revoked_tokens (expires_at);
CREATE INDEX revoked_tokens_without_expiry ON revoked_tokens (revoked_at) WHERE expires_at IS NULL;

-- The links of a trip that are good still: how many there may be is limited.
CREATE INDEX shares_valid ON shares (trip, expires_at) WHERE revoked_at IS NULL;

-- How many vehicles a fleet has, and trips that are not over: the sums of its rows. A connection has a row of its own, so that of many
-- that book at once none waits for another's commit; one alone may be below zero.
CREATE TABLE fleet_counts (
    fleet_id text NOT NULL,
    slot integer NOT NULL,
    vehicles integer NOT NULL DEFAULT 0,
    open_trips integer NOT NULL DEFAULT 0,
    PRIMARY KEY (fleet_id, slot)
)
-- Room on each page for the update that every booking makes.
WITH (fillfactor = 50);

-- Once for each statement, not for each row: a statement that brings thousands of rows changes the count once.
CREATE FUNCTION count_vehicles () RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    of_slot integer := pg_backend_pid() % 16;
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO fleet_counts AS known (fleet_id, slot, vehicles)
        SELECT fleet_id, of_slot, count(*) FROM new_rows GROUP BY fleet_id ORDER BY fleet_id
        ON CONFLICT (fleet_id, slot) DO UPDATE SET vehicles = known.vehicles + EXCLUDED.vehicles;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO fleet_counts AS known (fleet_id, slot, vehicles)
        SELECT fleet_id, of_slot, -count(*) FROM old_rows GROUP BY fleet_id ORDER BY fleet_id
        ON CONFLICT (fleet_id, slot) DO UPDATE SET vehicles = known.vehicles + EXCLUDED.vehicles;
    ELSE
        INSERT INTO fleet_counts AS known (fleet_id, slot, vehicles)
        SELECT fleet_id, of_slot, sum(change)
        FROM (
            SELECT fleet_id, 1 AS change FROM new_rows
            UNION ALL
            SELECT fleet_id, -1 FROM old_rows
        ) u
        GROUP BY fleet_id HAVING sum(change) <> 0 ORDER BY fleet_id
        ON CONFLICT (fleet_id, slot) DO UPDATE SET vehicles = known.vehicles + EXCLUDED.vehicles;
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION count_open_trips () RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    of_slot integer := pg_backend_pid() % 16;
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO fleet_counts AS known (fleet_id, slot, open_trips)
        SELECT fleet_id, of_slot, count(*) FROM new_rows WHERE status NOT IN ('complete', 'canceled') GROUP BY fleet_id ORDER BY fleet_id
        ON CONFLICT (fleet_id, slot) DO UPDATE SET open_trips = known.open_trips + EXCLUDED.open_trips;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO fleet_counts AS known (fleet_id, slot, open_trips)
        SELECT fleet_id, of_slot, -count(*) FROM old_rows WHERE status NOT IN ('complete', 'canceled') GROUP BY fleet_id ORDER BY fleet_id
        ON CONFLICT (fleet_id, slot) DO UPDATE SET open_trips = known.open_trips + EXCLUDED.open_trips;
    ELSE
        INSERT INTO fleet_counts AS known (fleet_id, slot, open_trips)
        SELECT fleet_id, of_slot, sum(change)
        FROM (
            SELECT fleet_id, 1 AS change FROM new_rows WHERE status NOT IN ('complete', 'canceled')
            UNION ALL
            SELECT fleet_id, -1 FROM old_rows WHERE status NOT IN ('complete', 'canceled')
        ) u
        GROUP BY fleet_id HAVING sum(change) <> 0 ORDER BY fleet_id
        ON CONFLICT (fleet_id, slot) DO UPDATE SET open_trips = known.open_trips + EXCLUDED.open_trips;
    END IF;
    RETURN NULL;
END
$$;

-- The triggers come first, and lock both tables for writers, so that nothing is missed by the counting below.
CREATE TRIGGER count_new_vehicles AFTER INSERT ON vehicles
REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION count_vehicles();
CREATE TRIGGER count_moved_vehicles AFTER UPDATE ON vehicles
REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION count_vehicles();
CREATE TRIGGER count_gone_vehicles AFTER DELETE ON vehicles
REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION count_vehicles();
CREATE TRIGGER count_new_trips AFTER INSERT ON trips
REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION count_open_trips();
CREATE TRIGGER count_changed_trips AFTER UPDATE ON trips
REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION count_open_trips();
CREATE TRIGGER count_gone_trips AFTER DELETE ON trips
REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION count_open_trips();

INSERT INTO fleet_counts (fleet_id, slot, vehicles, open_trips)
SELECT
    fleet_id,
    0,
    (SELECT count(*) FROM vehicles v WHERE v.fleet_id = f.fleet_id),
    (SELECT count(*) FROM trips t WHERE t.fleet_id = f.fleet_id AND t.status NOT IN ('complete', 'canceled'))
FROM fleets f;
