"""Triggers count a fleet's vehicles and open trips, on a real PostgreSQL."""

from tracking.store.pool import Connection


async def test_a_fleets_counts_are_right_whatever_changes_them(connection: Connection) -> None:
    async def counts() -> list[tuple[int, int]]:
        rows = await connection.fetch(
            "SELECT sum(vehicles), sum(open_trips) FROM fleet_counts GROUP BY fleet_id ORDER BY fleet_id"
        )
        counted = await connection.fetch(
            """
            SELECT (SELECT count(*) FROM vehicles v WHERE v.fleet_id = f.fleet_id),
                (SELECT count(*) FROM trips t WHERE t.fleet_id = f.fleet_id AND t.status NOT IN ('complete', 'canceled'))
            FROM fleets f ORDER BY fleet_id
            """
        )
        assert [tuple(row) for row in rows] == [tuple(row) for row in counted]
        return [tuple(row) for row in rows]

    await connection.execute(
        """
        INSERT INTO fleets (fleet_id, name) VALUES ('other', '');
        INSERT INTO vehicles (vehicle_id, fleet_id) SELECT 'v' || n, CASE n % 3 WHEN 0 THEN 'other' ELSE 'fleet' END
        FROM generate_series(1, 9) n;
        INSERT INTO trips (trip_id, fleet_id, pickup, dropoff, created_at)
        SELECT n::text, CASE n % 2 WHEN 0 THEN 'other' ELSE 'fleet' END, '{}', '{}', now() FROM generate_series(1, 9) n;
        """
    )
    assert await counts() == [(6, 5), (3, 4)]
    for change in (
        "UPDATE vehicles SET fleet_id = 'other' WHERE vehicle_id IN ('v1', 'v2')",
        "UPDATE trips SET status = 'complete' WHERE trip_id < '4'",
        "UPDATE trips SET status = 'canceled' WHERE trip_id IN ('4', '1')",
        "DELETE FROM vehicles WHERE vehicle_id IN ('v1', 'v4', 'none')",
        "DELETE FROM trips WHERE trip_id IN ('1', '5')",
        """
        INSERT INTO vehicles (vehicle_id, fleet_id) VALUES ('v2', 'fleet')
        ON CONFLICT (vehicle_id) DO UPDATE SET fleet_id = 'fleet'
        """,
        "UPDATE trips SET fleet_id = 'other'",
    ):
        await connection.execute(change)
        await counts()
    assert await counts() == [(4, 0), (3, 4)]
