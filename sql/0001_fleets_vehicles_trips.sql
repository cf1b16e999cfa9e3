-- Fleets, vehicles and trips: what an integrator names and steers.
CREATE EXTENSION IF NOT EXISTS postgis;

CREATE TABLE fleets (
    fleet_id text PRIMARY KEY,
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE vehicles (
    -- A number for the wide tables; integrators only ever see vehicle_id.
    vehicle integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    vehicle_id text NOT NULL UNIQUE,
    fleet_id text NOT NULL REFERENCES fleets,
    name text NOT NULL DEFAULT '',
    kind text NOT NULL DEFAULT '',
    plate text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Listing a fleet's vehicles.
CREATE INDEX vehicles_by_fleet ON vehicles (fleet_id, vehicle_id);

CREATE TABLE trips (
    trip integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    trip_id text NOT NULL UNIQUE,
    fleet_id text NOT NULL REFERENCES fleets,
    vehicle integer REFERENCES vehicles ON DELETE SET NULL,
    status text NOT NULL DEFAULT 'new' CHECK (
        status IN (
            'new',
            'enroute_to_pickup',
            'arrived_at_pickup',
            'enroute_to_dropoff',
            'arrived_at_stop',
            'complete',
            'canceled'
        )
    ),
    version integer NOT NULL DEFAULT 1,
    pickup jsonb NOT NULL,
    dropoff jsonb NOT NULL,
    stops jsonb NOT NULL DEFAULT '[]',
    route geometry (LineString, 4326),
    created_at timestamptz NOT NULL,
    started_at timestamptz,
    ended_at timestamptz
);

-- Listing a fleet's trips, by status or not, newest first.
CREATE INDEX trips_by_fleet ON trips (fleet_id, status, created_at);

-- The trips waiting for a vehicle's driver; those that are over are the many, and are left out.
CREATE INDEX trips_open_by_vehicle ON trips (vehicle) WHERE status NOT IN ('complete', 'canceled');

-- When which vehicle was under way on which trip, by the hub's clock: the one source for whose trip a fix belongs to.
CREATE TABLE trip_spans (
    -- No foreign key: a trip that is deleted still bounds what the passenger of the next one may see.
    trip integer NOT NULL,
    vehicle integer NOT NULL REFERENCES vehicles ON DELETE CASCADE,
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    PRIMARY KEY (trip, started_at)
);

-- One trip under way for a vehicle at a time, however many ask at once.
CREATE UNIQUE INDEX trip_spans_one_open ON trip_spans (vehicle) WHERE ended_at IS NULL;

-- A connecting driver's spans of the last week.
CREATE INDEX trip_spans_by_vehicle ON trip_spans (vehicle, started_at);
