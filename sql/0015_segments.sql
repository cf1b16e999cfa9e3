-- A trip may be driven by one vehicle after another. What one of them drives, from taking it over on, is a segment of the trip.

-- The segments of a trip in their order, each with the fix times that belong to it, both included. A fix may be half a minute older
-- than the start, the grace that it is given when it comes; what a device with a fast clock dated after the hand-over is still of its
-- vehicle's segment, and what it dated after the trip's end is not the trip's to show.
CREATE FUNCTION trip_segments (of_trip integer)
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
    WHERE s.trip = of_trip
$$;

-- Of a trip with one segment a LineStringM, of one with several a MultiLineStringM, a line each, in their order; a single fix is a
-- line of twice the same vertex. Without the type's modifier, so that no line is written anew.
ALTER TABLE trip_summaries ALTER COLUMN line TYPE geometry;

ALTER TABLE trip_summaries ADD CONSTRAINT trip_summaries_line
CHECK (GeometryType(line) IN ('LINESTRINGM', 'MULTILINESTRINGM') AND ST_SRID(line) = 4326) NOT VALID;

-- Whose each line is. NULL: made before this was noted, of the vehicle that the trip had last.
ALTER TABLE trip_summaries ADD COLUMN vehicles integer [];

-- Lines of several vehicles that were joined into one are made anew, as far as their positions are there.
UPDATE trips SET compacted = false
WHERE compacted AND ended_at >= positions_horizon()
    AND trip IN (SELECT s.trip FROM trip_spans s GROUP BY s.trip HAVING count(*) > 1);

DROP FUNCTION trip_fixes;

-- The plausible fixes of a trip, as its track has them: from the positions, and what those no longer have from its line.
CREATE FUNCTION trip_fixes (of_trip integer)
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
$$;

-- As before, one segment after the other: from the last place of one vehicle to the first of the next nobody drove.
CREATE OR REPLACE FUNCTION sum_up_trip (
    of_trip integer, OUT distance double precision, OUT stops integer, OUT top_speed double precision
) LANGUAGE plpgsql AS $$
DECLARE
    fixes refcursor;
BEGIN
    OPEN fixes NO SCROLL FOR
        SELECT f.vehicle, f.fix_time, f.point, f.speed FROM trip_fixes(of_trip) f
        ORDER BY f.segment, f.fix_time, f.session, f.seq;
    SELECT s.distance, s.stops, s.top_speed INTO distance, stops, top_speed FROM sum_up(fixes) s;
    CLOSE fixes;
    top_speed := greatest(
        top_speed,
        (
            SELECT t.top_speed FROM trip_summaries t
            WHERE t.trip = of_trip
                AND to_timestamp(ST_M(ST_StartPoint(ST_GeometryN(t.line, 1))) / 1000) < positions_horizon()
        )
    );
END
$$;

-- The line as RFC 7946 3.1.9 wants it: cut where it crosses the antimeridian, at 180 degrees, into a MultiLineString.
CREATE FUNCTION cut_at_antimeridian (line geometry) RETURNS geometry LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    WITH places AS (
        SELECT
            d.path[:cardinality(d.path) - 1] AS part,
            d.path[cardinality(d.path)]::double precision AS n,
            ST_X(d.geom) AS x,
            ST_Y(d.geom) AS y
        FROM ST_DumpPoints(line) d
    ),
    steps AS (
        SELECT *, lag(x) OVER along AS x0, lag(y) OVER along AS y0
        FROM places WINDOW along AS (PARTITION BY part ORDER BY n)
    ),
    pieces AS (
        SELECT
            *,
            coalesce(abs(x - x0) > 180, false) AS crosses,
            count(*) FILTER (WHERE abs(x - x0) > 180) OVER (PARTITION BY part ORDER BY n) AS piece,
            y0 + (y - y0) * coalesce((180 - abs(x0)) / nullif(360 - abs(x0) - abs(x), 0), 1) AS y_there
        FROM steps
    ),
    vertices AS (
        SELECT part, piece, n, x, y FROM pieces
        UNION ALL
        SELECT part, piece - 1, n, 180 * sign(x0), y_there FROM pieces WHERE crosses
        UNION ALL
        SELECT part, piece, n - 0.5, 180 * sign(x), y_there FROM pieces WHERE crosses
    )
    SELECT ST_Collect(l.piece ORDER BY l.part, l.number)
    FROM (
        SELECT part, piece AS number, ST_MakeLine(ST_SetSRID(ST_MakePoint(x, y), ST_SRID(line)) ORDER BY n) AS piece
        FROM vertices GROUP BY part, piece
    ) l
$$;
