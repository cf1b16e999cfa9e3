-- A receiver that wanders while its vehicle stands drives no way: a stop lasts until it is left.

-- Sums up fixes that an open cursor gives in order: vehicle, fix_time, point, speed.
--
-- A run is a row of fixes of one vehicle that stay in place: each lies within 45 m of the mean of those before it or, where it
-- reports less than 1 m/s, within 100 m, because receivers drift between houses. A run of 60 s or more becomes a stop where it
-- moves on by less than 1 m/s, by the line of least squares through it: who creeps evenly is told from one whose receiver wanders.
-- (Stay points of Li et al., "Mining user similarity based on location history", ACM GIS 2008, with a mean in place of their first
-- point.)
--
-- A stop is left by fixes that are farther than 100 m from its mean, and for more than 120 s none within the run's bounds; past 300 m,
-- for more than 60 s. What comes back before was an excursion of the receiver, and what stays nearer is its wandering: neither is a
-- way, nor another stop.
--
-- distance (m): from fix to fix on the sphere of mean radius, and within a stop in a straight line from its first fix to its last.
-- driving_time (s): what is no stop, silences of more than 5 minutes left out. top_speed (m/s): the highest reported; what no vehicle
-- drives was stored before it was taken for unknown, and does not count.
CREATE OR REPLACE FUNCTION sum_up (
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
    radius CONSTANT double precision := 45;
    drift CONSTANT double precision := 100;
    slow CONSTANT double precision := 1;
    least CONSTANT double precision := 60;
    silence CONSTANT double precision := 300;
    fastest CONSTANT double precision := 150;

    fix record;
    before_vehicle integer;
    before_time timestamptz;
    before_point geometry;
    more boolean;
    same boolean;
    leg double precision;
    took double precision;
    x double precision;
    y double precision;
    east double precision;
    north double precision;
    off double precision;
    bound double precision;

    -- The run: its first place, the others' metres and seconds from there as sums, and what was driven and took in it.
    run_count integer := 0;
    run_x double precision;
    run_y double precision;
    run_degree double precision;
    run_begin timestamptz;
    run_seconds double precision;
    run_east double precision;
    run_north double precision;
    run_leg double precision;
    run_took double precision;
    seconds_sum double precision;
    seconds_square double precision;
    seconds_east double precision;
    seconds_north double precision;
    spread double precision;
    -- What was driven and took since the last stop, up to the run.
    away double precision := 0;
    away_took double precision := 0;
    -- The stop, while it is not left: its first place, the mean of its fixes and the last of them in metres from there, when that
    -- was, and how far from the mean the fixes since have been.
    standing boolean := false;
    stop_count integer;
    stop_x double precision;
    stop_y double precision;
    stop_degree double precision;
    stop_east double precision;
    stop_north double precision;
    last_east double precision;
    last_north double precision;
    stop_end timestamptz;
    farthest double precision;
BEGIN
    distance := 0;
    driving_time := 0;
    stops := 0;
    positions := 0;
    LOOP
        FETCH fixes INTO fix;
        more := FOUND;
        -- A finished trip's line does not say which vehicle a fix was of.
        same := more AND positions > 0 AND coalesce(fix.vehicle = before_vehicle, true);
        IF NOT same AND positions > 0 THEN
            -- The end, or another vehicle.
            IF standing THEN
                distance := distance + sqrt(last_east ^ 2 + last_north ^ 2);
                standing := false;
            END IF;
            IF run_count > 0 THEN
                away := away + run_leg;
                away_took := away_took + run_took;
            END IF;
            distance := distance + away;
            driving_time := driving_time + away_took;
            away := 0;
            away_took := 0;
            run_count := 0;
        END IF;
        EXIT WHEN NOT more;

        positions := positions + 1;
        first_fix_time := coalesce(first_fix_time, fix.fix_time);
        last_fix_time := fix.fix_time;
        IF fix.speed <= fastest THEN
            top_speed := greatest(top_speed, fix.speed);
        END IF;
        x := ST_X(fix.point);
        y := ST_Y(fix.point);
        bound := CASE WHEN fix.speed < slow THEN drift ELSE radius END;
        leg := 0;
        took := 0;
        IF same THEN
            leg := ST_DistanceSphere(before_point, fix.point);
            took := extract(epoch FROM fix.fix_time - before_time);
            IF took > silence THEN
                took := 0;
            END IF;
        END IF;
        before_vehicle := fix.vehicle;
        before_time := fix.fix_time;
        before_point := fix.point;

        IF standing THEN
            east := x - stop_x;
            IF abs(east) > 180 THEN
                east := east - 360 * sign(east);
            END IF;
            east := east * stop_degree;
            north := (y - stop_y) * degree;
            off := sqrt((east - stop_east) ^ 2 + (north - stop_north) ^ 2);
            IF farthest > drift
                AND extract(epoch FROM fix.fix_time - stop_end) > (CASE WHEN farthest > 3 * drift THEN 1 ELSE 2 END) * least
            THEN
                -- It was left.
                distance := distance + sqrt(last_east ^ 2 + last_north ^ 2);
                standing := false;
            ELSIF off <= bound THEN
                -- Still there, or back.
                stop_count := stop_count + 1;
                stop_east := stop_east + (east - stop_east) / stop_count;
                stop_north := stop_north + (north - stop_north) / stop_count;
                last_east := east;
                last_north := north;
                stop_end := fix.fix_time;
                farthest := 0;
                away := 0;
                away_took := 0;
                run_count := 0;
                CONTINUE;
            ELSE
                farthest := greatest(farthest, off);
            END IF;
        END IF;

        IF run_count > 0 THEN
            east := x - run_x;
            IF abs(east) > 180 THEN
                east := east - 360 * sign(east);
            END IF;
            east := east * run_degree;
            north := (y - run_y) * degree;
            off := sqrt((east - run_east / run_count) ^ 2 + (north - run_north / run_count) ^ 2);
            IF off > bound THEN
                away := away + run_leg;
                away_took := away_took + run_took;
                run_count := 0;
            END IF;
        END IF;
        IF run_count = 0 THEN
            away := away + leg;
            away_took := away_took + took;
            run_count := 1;
            run_x := x;
            run_y := y;
            run_degree := degree * greatest(cos(radians(y)), 1e-9);
            run_begin := fix.fix_time;
            run_east := 0;
            run_north := 0;
            run_leg := 0;
            run_took := 0;
            seconds_sum := 0;
            seconds_square := 0;
            seconds_east := 0;
            seconds_north := 0;
            CONTINUE;
        END IF;
        run_count := run_count + 1;
        run_seconds := extract(epoch FROM fix.fix_time - run_begin);
        run_east := run_east + east;
        run_north := run_north + north;
        run_leg := run_leg + leg;
        run_took := run_took + took;
        seconds_sum := seconds_sum + run_seconds;
        seconds_square := seconds_square + run_seconds ^ 2;
        seconds_east := seconds_east + run_seconds * east;
        seconds_north := seconds_north + run_seconds * north;
        CONTINUE WHEN run_seconds < least;
        spread := seconds_square - seconds_sum ^ 2 / run_count;
        CONTINUE WHEN (seconds_east - seconds_sum * run_east / run_count) ^ 2
            + (seconds_north - seconds_sum * run_north / run_count) ^ 2 >= (slow * spread) ^ 2;

        IF standing AND farthest <= drift THEN
            -- The receiver wandered there.
            last_east := x - stop_x;
            IF abs(last_east) > 180 THEN
                last_east := last_east - 360 * sign(last_east);
            END IF;
            last_east := last_east * stop_degree;
            last_north := (y - stop_y) * degree;
            stop_end := fix.fix_time;
        ELSE
            IF standing THEN
                distance := distance + sqrt(last_east ^ 2 + last_north ^ 2);
            END IF;
            stops := stops + 1;
            distance := distance + away;
            driving_time := driving_time + away_took;
            standing := true;
            stop_count := run_count;
            stop_x := run_x;
            stop_y := run_y;
            stop_degree := run_degree;
            stop_east := run_east / run_count;
            stop_north := run_north / run_count;
            last_east := east;
            last_north := north;
            stop_end := fix.fix_time;
        END IF;
        farthest := 0;
        away := 0;
        away_took := 0;
        run_count := 0;
    END LOOP;
END
$$;
