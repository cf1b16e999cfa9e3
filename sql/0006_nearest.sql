-- The nearest vehicles of a fleet.
CREATE EXTENSION IF NOT EXISTS btree_gist;

-- A number for the index below: with the fleet's name in its place a write costs three times as much.
ALTER TABLE fleets ADD COLUMN fleet integer GENERATED ALWAYS AS IDENTITY UNIQUE;

ALTER TABLE latest_positions ADD COLUMN fleet integer;

UPDATE latest_positions
SET fleet = fleets.fleet
FROM vehicles JOIN fleets USING (fleet_id)
WHERE vehicles.vehicle = latest_positions.vehicle;

DELETE FROM latest_positions WHERE fleet IS NULL;

ALTER TABLE latest_positions ALTER COLUMN fleet SET NOT NULL;

-- In degrees: at 47° north one of longitude is two thirds of one of latitude, and another vehicle would be the nearest.
DROP INDEX latest_positions_by_place;

-- The nearest vehicles to a place, in metres, across the date line and at the poles: `<->` of geography reads them in that order.
-- The fleet stands first, so that a small fleet is found among many vehicles of others without looking at those.
CREATE INDEX latest_positions_by_place ON latest_positions USING gist (fleet, (point::geography));
