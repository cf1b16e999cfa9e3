-- A vehicle that is erased leaves its id free, and tokens that were issued for it. They must not open the next one of that id.

-- What stands for an id that must itself be forgotten.
CREATE FUNCTION id_digest (id text) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$ SELECT sha256(convert_to(id, 'UTF8')) $$;

-- Of ids that were erased vehicles': kept for as long as a token may live.
CREATE TABLE erased_vehicles (
    digest bytea PRIMARY KEY,
    erased_at timestamptz NOT NULL DEFAULT now()
);

-- Letting go of those that are old enough.
CREATE INDEX erased_vehicles_by_age ON erased_vehicles (erased_at);

-- In the transaction that makes the id free, whoever does it and how.
CREATE FUNCTION remember_erased_vehicle () RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO erased_vehicles (digest) VALUES (id_digest(OLD.vehicle_id))
    ON CONFLICT (digest) DO UPDATE SET erased_at = EXCLUDED.erased_at;
    RETURN NULL;
END
$$;

CREATE TRIGGER vehicle_erased AFTER DELETE ON vehicles
FOR EACH ROW EXECUTE FUNCTION remember_erased_vehicle ();

CREATE TRIGGER vehicle_renamed AFTER UPDATE OF vehicle_id ON vehicles
FOR EACH ROW WHEN (OLD.vehicle_id IS DISTINCT FROM NEW.vehicle_id) EXECUTE FUNCTION remember_erased_vehicle ();

-- Tokens of the vehicle's driver that were issued before this are of another vehicle. NULL: its id was never another's.
ALTER TABLE vehicles ADD COLUMN tokens_from timestamptz;
