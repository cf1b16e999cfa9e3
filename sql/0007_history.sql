-- What is left of trips and days: summaries, and the lines of trips, which outlive the raw positions.

-- A trip is compacted when it is over and its late fixes are in; a fix that comes later still takes the mark away again.
ALTER TABLE trips ADD COLUMN compacted boolean NOT NULL DEFAULT false;

-- The trips that wait to be compacted; those that are done are the many, and are left out.
CREATE INDEX trips_to_compact ON trips (ended_at)
WHERE NOT compacted AND started_at IS NOT NULL AND status IN ('complete', 'canceled');

-- No GiST index: no query asks for lines by place. Of a trip that is not over there is a row only where raw positions of it had to
-- go before.
CREATE TABLE trip_summaries (
    trip integer PRIMARY KEY REFERENCES trips ON DELETE CASCADE,
    built_at timestamptz NOT NULL,
    -- metres
    distance double precision NOT NULL,
    stops integer NOT NULL,
    -- m/s; NULL where no speed was reported
    top_speed double precision,
    -- Every plausible fix, M its time in ms since 1970, rising: whole numbers, which a double holds exactly. NULL: fewer than two.
    line geometry (LineStringM, 4326)
);

-- A vehicle's UTC days. The key is how they are asked for: one vehicle over a span of days.
CREATE TABLE vehicle_days (
    vehicle integer NOT NULL REFERENCES vehicles ON DELETE CASCADE,
    day date NOT NULL,
    built_at timestamptz NOT NULL,
    -- metres, seconds, m/s
    distance double precision NOT NULL,
    driving_time double precision NOT NULL,
    stops integer NOT NULL,
    top_speed double precision,
    positions integer NOT NULL,
    first_fix_time timestamptz NOT NULL,
    last_fix_time timestamptz NOT NULL,
    PRIMARY KEY (vehicle, day)
);

-- What became of each day's partition of positions: summed up; looked through once more, when nothing can come late any more;
-- dropped.
CREATE TABLE position_days (
    day date PRIMARY KEY,
    summed_at timestamptz,
    settled_at timestamptz,
    dropped_at timestamptz
);

-- Positions are kept from this instant on.
CREATE FUNCTION positions_horizon () RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT coalesce((max(day) + 1)::timestamp AT TIME ZONE 'UTC', '-infinity') FROM position_days WHERE dropped_at IS NOT NULL
$$;

-- The plausible fixes of a trip, as its track has them: from the positions, and what those no longer have from its line.
CREATE FUNCTION trip_fixes (of_trip integer)
RETURNS TABLE (vehicle integer, fix_time timestamptz, session bigint, seq bigint, point geometry, speed double precision)
LANGUAGE sql STABLE AS $$
    SELECT p.vehicle, p.fix_time, p.session, p.seq, p.point, p.speed FROM positions p
    WHERE p.trip = of_trip
        AND p.vehicle IN (SELECT s.vehicle FROM trip_spans s WHERE s.trip = of_trip)
        AND p.fix_time >= (SELECT min(s.started_at) - interval '30 s' FROM trip_spans s WHERE s.trip = of_trip)
        AND p.fix_time <= (SELECT max(coalesce(s.ended_at, 'infinity')) FROM trip_spans s WHERE s.trip = of_trip)
        AND p.fix_time >= (SELECT positions_horizon())
        AND p.suspect IS NULL
    UNION ALL
    SELECT NULL, to_timestamp(ST_M(d.geom) / 1000), NULL, NULL, ST_Force2D(d.geom), NULL
    FROM trip_summaries t, ST_DumpPoints(t.line) d
    WHERE t.trip = of_trip AND to_timestamp(ST_M(d.geom) / 1000) < (SELECT positions_horizon())
$$;

-- Sums up fixes that an open cursor gives in order: vehicle, fix_time, point, speed.
--
-- A run is a row of fixes of one vehicle that stay in place: each lies within 30 m of the mean of those before it or, where it
-- reports less than 1 m/s, within 100 m, because receivers drift between houses. A run of 60 s or more is a stop: so whoever moves on
-- evenly stands where that is slower than 1 m/s, as the mean then lags 30 m behind after 60 s. A stop that begins within 60 s after
-- the one before, within 30 m of it, is the same one: an excursion of the receiver. (Stay points of Li et al., "Mining user
-- similarity based on location history", ACM GIS 2008, with a mean in place of their first point.)
--
-- distance (m): from fix to fix on the sphere of mean radius, and within a stop in a straight line from its first fix to its last:
-- jitter adds nothing. driving_time (s): what is no stop, silences of more than 5 minutes left out. top_speed (m/s): the highest
-- reported.
CREATE FUNCTION sum_up (
    fixes refcursor,
    OUT distance double precision,
    OUT driving_time double precision,
    OUT stops integer,
    OUT top_speed double precision,
    OUT positions integer,
    OUT first_fix_time timestamptz,
    OUT last_fix_time timestamptz
) LANGUAGE plpgsql AS $$
DECLARE
    -- m, of a great circle of mean radius
    degree CONSTANT double precision := 111195.08;
    radius CONSTANT double precision := 30;
    drift CONSTANT double precision := 100;
    slow CONSTANT double precision := 1;
    least CONSTANT interval := '60 s';
    silence CONSTANT double precision := 300;

    fix record;
    before record;
    more boolean;
    leg double precision;
    took double precision;
    off double precision;
    east double precision;
    north double precision;

    -- The run: its first place, the others' metres from there as sums, the last of them, and what was driven and took in it.
    run_count integer := 0;
    run_x double precision;
    run_y double precision;
    run_degree double precision;
    run_east double precision;
    run_north double precision;
    last_east double precision;
    last_north double precision;
    run_leg double precision;
    run_took double precision;
    run_begin timestamptz;
    mean_x double precision;
    mean_y double precision;
    -- The last stop, and what was driven and took since.
    stop_x double precision;
    stop_y double precision;
    stop_end timestamptz;
    away double precision := 0;
    away_took double precision := 0;
BEGIN
    distance := 0;
    driving_time := 0;
    stops := 0;
    positions := 0;
    LOOP
        FETCH fixes INTO fix;
        more := FOUND;
        off := NULL;
        IF more AND run_count > 0 THEN
            IF fix.vehicle = before.vehicle OR fix.vehicle IS NULL OR before.vehicle IS NULL THEN
                leg := ST_DistanceSphere(before.point, fix.point);
                took := extract(epoch FROM fix.fix_time - before.fix_time);
                IF took > silence THEN
                    took := 0;
                END IF;
                east := ST_X(fix.point) - run_x;
                IF abs(east) > 180 THEN
                    east := east - 360 * sign(east);
                END IF;
                east := east * run_degree;
                north := (ST_Y(fix.point) - run_y) * degree;
                off := sqrt((east - run_east / run_count) ^ 2 + (north - run_north / run_count) ^ 2);
            ELSE
                leg := NULL;
            END IF;
        END IF;
        IF off <= radius OR (off <= drift AND fix.speed < slow) THEN
            run_count := run_count + 1;
            run_east := run_east + east;
            run_north := run_north + north;
            last_east := east;
            last_north := north;
            run_leg := run_leg + leg;
            run_took := run_took + took;
        ELSE
            IF run_count > 0 THEN
                IF before.fix_time - run_begin >= least THEN
                    mean_x := run_x + run_east / run_count / run_degree;
                    mean_y := run_y + run_north / run_count / degree;
                    IF run_begin - stop_end <= least
                        AND ST_DistanceSphere(ST_MakePoint(mean_x, mean_y), ST_MakePoint(stop_x, stop_y)) <= radius
                    THEN
                        NULL;
                    ELSE
                        stops := stops + 1;
                        distance := distance + away + sqrt(last_east ^ 2 + last_north ^ 2);
                        driving_time := driving_time + away_took;
                        stop_x := mean_x;
                        stop_y := mean_y;
                    END IF;
                    stop_end := before.fix_time;
                    away := 0;
                    away_took := 0;
                ELSE
                    away := away + run_leg;
                    away_took := away_took + run_took;
                END IF;
                IF more AND leg IS NOT NULL THEN
                    away := away + leg;
                    away_took := away_took + took;
                ELSE
                    -- Another vehicle, or the end.
                    distance := distance + away;
                    driving_time := driving_time + away_took;
                    away := 0;
                    away_took := 0;
                    stop_end := NULL;
                END IF;
            END IF;
            EXIT WHEN NOT more;
            run_count := 1;
            run_x := ST_X(fix.point);
            run_y := ST_Y(fix.point);
            run_degree := degree * greatest(cos(radians(run_y)), 1e-9);
            run_east := 0;
            run_north := 0;
            last_east := 0;
            last_north := 0;
            run_leg := 0;
            run_took := 0;
            run_begin := fix.fix_time;
        END IF;
        positions := positions + 1;
        first_fix_time := coalesce(first_fix_time, fix.fix_time);
        last_fix_time := fix.fix_time;
        top_speed := greatest(top_speed, fix.speed);
        before := fix;
    END LOOP;
END
$$;

-- The same of a trip. What its summary knew of the top speed of positions that are gone is kept.
CREATE FUNCTION sum_up_trip (
    of_trip integer, OUT distance double precision, OUT stops integer, OUT top_speed double precision
) LANGUAGE plpgsql AS $$
DECLARE
    fixes refcursor;
BEGIN
    OPEN fixes NO SCROLL FOR
        SELECT f.vehicle, f.fix_time, f.point, f.speed FROM trip_fixes(of_trip) f ORDER BY f.fix_time, f.session, f.seq;
    SELECT s.distance, s.stops, s.top_speed INTO distance, stops, top_speed FROM sum_up(fixes) s;
    CLOSE fixes;
    top_speed := greatest(
        top_speed,
        (
            SELECT t.top_speed FROM trip_summaries t
            WHERE t.trip = of_trip AND to_timestamp(ST_M(ST_StartPoint(t.line)) / 1000) < positions_horizon()
        )
    );
END
$$;

-- The same of a vehicle over a span of time.
CREATE FUNCTION sum_up_span (
    of_vehicle integer,
    since timestamptz,
    until timestamptz,
    OUT distance double precision,
    OUT driving_time double precision,
    OUT stops integer,
    OUT top_speed double precision,
    OUT positions integer,
    OUT first_fix_time timestamptz,
    OUT last_fix_time timestamptz
) LANGUAGE plpgsql AS $$
DECLARE
    fixes refcursor;
BEGIN
    OPEN fixes NO SCROLL FOR
        SELECT p.vehicle, p.fix_time, p.point, p.speed FROM positions p
        WHERE p.vehicle = of_vehicle AND p.fix_time >= since AND p.fix_time < until AND p.suspect IS NULL
        ORDER BY p.fix_time, p.session, p.seq;
    SELECT s.* INTO distance, driving_time, stops, top_speed, positions, first_fix_time, last_fix_time FROM sum_up(fixes) s;
    CLOSE fixes;
END
$$;
