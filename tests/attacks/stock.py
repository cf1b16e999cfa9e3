"""Thousands of rows that an attack needs, written into the database before the hub starts."""

import asyncpg

FLEET = "attacked"
TRIP = "long-trip"
LONG_VEHICLE = "long-van"
LONG_FIXES = 100_000
VEHICLES = 1_900
MANY_VEHICLES = 20_000


async def stock_vehicles(database_url: str, count: int = VEHICLES) -> None:
    """A fleet with vehicles around Vaduz that have just reported."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("INSERT INTO fleets (fleet_id, name) VALUES ($1, 'Attacked') ON CONFLICT DO NOTHING", FLEET)
        await connection.execute(
            """
            INSERT INTO vehicles (vehicle_id, fleet_id, name, kind, plate)
            SELECT 'van-' || n, $1, 'Van ' || n, 'van', 'FL ' || (10000 + n) FROM generate_series(1, $2::int) n
            """,
            FLEET,
            count,
        )
        await connection.execute(
            """
            INSERT INTO latest_positions (vehicle, fleet, fix_time, server_time, point)
            SELECT vehicle, fleet, now(), now(), ST_SetSRID(
                ST_MakePoint(9.4 + 0.2 * (vehicle * 7919 % 1000) / 1000, 47.05 + 0.2 * (vehicle * 104729 % 1000) / 1000), 4326
            )
            FROM vehicles JOIN fleets USING (fleet_id) WHERE fleet_id = $1
            """,
            FLEET,
        )
    finally:
        await connection.close()


async def stock_trip(database_url: str, fixes: int = LONG_FIXES) -> None:
    """A trip under way with one fix a second, of a vehicle on a winding road."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("INSERT INTO fleets (fleet_id, name) VALUES ($1, 'Attacked') ON CONFLICT DO NOTHING", FLEET)
        vehicle = await connection.fetchval(
            "INSERT INTO vehicles (vehicle_id, fleet_id, name) VALUES ($1, $2, 'Long') RETURNING vehicle", LONG_VEHICLE, FLEET
        )
        place = '{"latitude": 47.1, "longitude": 9.5}'
        trip = await connection.fetchval(
            """
            INSERT INTO trips (trip_id, fleet_id, vehicle, status, version, pickup, dropoff, stops, created_at, started_at)
            VALUES ($1, $2, $3, 'enroute_to_pickup', 2, $4::jsonb, $4::jsonb, '[]', now() - make_interval(secs => $5 + 60),
                now() - make_interval(secs => $5 + 60))
            RETURNING trip
            """,
            TRIP,
            FLEET,
            vehicle,
            place,
            fixes,
        )
        await connection.execute(
            "INSERT INTO trip_spans (trip, vehicle, started_at) VALUES ($1, $2, now() - make_interval(secs => $3 + 60))",
            trip,
            vehicle,
            fixes,
        )
        session = await connection.fetchval(
            "INSERT INTO sessions (vehicle, name, handled_seq) VALUES ($1, 'long', $2) RETURNING session", vehicle, fixes
        )
        await connection.execute(
            """
            SELECT ensure_positions_partition(day::date)
            FROM generate_series(now() - make_interval(secs => $1 + 86400), now() + interval '1 day', '1 day') day
            """,
            fixes,
        )
        await connection.execute(
            """
            INSERT INTO positions (vehicle, trip, session, seq, fix_time, server_time, speed, bearing, point)
            SELECT $1, $2, $3, n, date_trunc('second', now()) - make_interval(secs => $4 - n),
                date_trunc('second', now()) - make_interval(secs => $4 - n), 12, 90,
                ST_SetSRID(ST_MakePoint(
                    9.5 + 0.05 * sin(n / 700.0) + 0.002 * sin(n / 13.0) + 0.0002 * sin(n / 1.7),
                    47.1 + 0.05 * cos(n / 900.0) + 0.002 * cos(n / 11.0) + 0.0002 * cos(n / 1.3)
                ), 4326)
            FROM generate_series(1, $4::int) n
            """,
            vehicle,
            trip,
            session,
            fixes,
        )
        await connection.execute("ANALYZE positions, vehicles, sessions")
    finally:
        await connection.close()
