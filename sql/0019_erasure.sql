-- A vehicle's erasure takes as long as it has rows, so it is done in batches. Its row and its id go at once, and with them
-- everything that reads it: what is asked for by a vehicle's number finds the vehicle no more.
CREATE TABLE erasures (
    -- The number that the vehicle had.
    vehicle integer PRIMARY KEY,
    vehicle_id text NOT NULL,
    fleet_id text NOT NULL,
    asked_at timestamptz NOT NULL,
    -- Rows that are gone already, and the days whose positions are not yet; NULL: not counted yet.
    removed bigint NOT NULL DEFAULT 0,
    days_left integer
);

-- A trip's: its number goes from positions, and its id from events. Its spans stay without it for some days, because they bound what
-- the passenger of the next trip may see.
CREATE TABLE trip_erasures (
    trip integer PRIMARY KEY,
    -- NULL when no event has it any more.
    trip_id text,
    asked_at timestamptz NOT NULL
);

-- To follow these at once would be the long statement that the batches are there to avoid. Whoever writes such a row has locked the
-- vehicle's before.
ALTER TABLE trips DROP CONSTRAINT trips_vehicle_fkey;
ALTER TABLE trip_spans DROP CONSTRAINT trip_spans_vehicle_fkey;
ALTER TABLE events DROP CONSTRAINT events_vehicle_fkey;

-- The segments of a trip as before, but for those of a vehicle that is being erased.
CREATE OR REPLACE FUNCTION trip_segments (of_trip integer)
RETURNS TABLE (segment bigint, vehicle integer, since timestamptz, until timestamptz)
LANGUAGE sql STABLE AS $$
    SELECT
        row_number() OVER (ORDER BY s.started_at),
        s.vehicle,
        s.started_at - interval '30 s',
        coalesce(
            lead(s.started_at) OVER (PARTITION BY s.vehicle ORDER BY s.started_at) - interval '30.001 s',
            max(coalesce(s.ended_at, 'infinity')) OVER ()
        )
    FROM trip_spans s
    WHERE s.trip = of_trip AND EXISTS (SELECT FROM vehicles v WHERE v.vehicle = s.vehicle)
$$;

-- Whether a vehicle drove some of the trip that is being erased.
CREATE FUNCTION drove_erased (of_trip integer) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM trip_spans s
        WHERE s.trip = of_trip AND NOT EXISTS (SELECT FROM vehicles v WHERE v.vehicle = s.vehicle)
    )
$$;

-- As before, but for what the line has kept of a vehicle that is being erased.
CREATE OR REPLACE FUNCTION trip_fixes (of_trip integer)
RETURNS TABLE (
    segment bigint,
    vehicle integer,
    fix_time timestamptz,
    session bigint,
    seq bigint,
    point geometry,
    speed double precision
)
LANGUAGE sql STABLE AS $$
    SELECT s.segment, p.vehicle, p.fix_time, p.session, p.seq, p.point, p.speed
    FROM trip_segments(of_trip) s JOIN positions p ON p.vehicle = s.vehicle AND p.fix_time BETWEEN s.since AND s.until
    WHERE p.trip = of_trip
        -- Into the key's index, and to the days in question.
        AND p.fix_time >= (SELECT greatest(min(g.since), positions_horizon()) FROM trip_segments(of_trip) g)
        AND p.fix_time <= (SELECT max(g.until) FROM trip_segments(of_trip) g)
        AND p.suspect IS NULL
    UNION ALL
    SELECT coalesce(s.segment, 1), k.vehicle, k.fix_time, NULL, NULL, k.point, NULL
    FROM (
        SELECT DISTINCT
            t.vehicles[CASE WHEN cardinality(d.path) > 1 THEN d.path[1] ELSE 1 END] AS vehicle,
            to_timestamp(ST_M(d.geom) / 1000) AS fix_time,
            ST_Force2D(d.geom) AS point
        FROM trip_summaries t, ST_DumpPoints(t.line) d
        WHERE t.trip = of_trip AND to_timestamp(ST_M(d.geom) / 1000) < (SELECT positions_horizon())
    ) k
        LEFT JOIN trip_segments(of_trip) s ON s.vehicle = k.vehicle AND k.fix_time BETWEEN s.since AND s.until
    WHERE CASE
        WHEN k.vehicle IS NOT NULL THEN EXISTS (SELECT FROM vehicles v WHERE v.vehicle = k.vehicle)
        -- From before it was noted whose each part is.
        ELSE NOT drove_erased(of_trip)
    END
$$;

-- What a vehicle was called until an instant, and in which fleet it was: a trip that is over shows what it was called then.
CREATE TABLE vehicle_descriptions (
    vehicle integer NOT NULL REFERENCES vehicles ON DELETE CASCADE,
    until timestamptz NOT NULL,
    fleet_id text NOT NULL,
    name text NOT NULL,
    kind text NOT NULL,
    plate text NOT NULL,
    PRIMARY KEY (vehicle, until)
);

-- Since when it is in its fleet: where it was before is not this fleet's to see. NULL: it was never in another.
ALTER TABLE vehicles ADD COLUMN joined_at timestamptz;

-- Of those that came from another fleet before this was noted: not before the end of their last trip, or the last event, there.
UPDATE vehicles
SET joined_at = there.last
FROM (
    SELECT vehicle, max(last) AS last
    FROM (
        SELECT t.vehicle, max(t.ended_at) AS last
        FROM trips t JOIN vehicles v ON v.vehicle = t.vehicle AND v.fleet_id <> t.fleet_id
        GROUP BY t.vehicle
        UNION ALL
        SELECT e.vehicle, max(e.server_time) AS last
        FROM events e JOIN vehicles v ON v.vehicle = e.vehicle AND v.fleet_id <> e.fleet_id
        GROUP BY e.vehicle
    ) of_others GROUP BY vehicle
) there
WHERE there.vehicle = vehicles.vehicle AND there.last IS NOT NULL;
