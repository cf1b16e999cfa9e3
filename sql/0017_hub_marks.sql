-- How far each hub has written, so that it notices a store that went back: a replica that lagged, a copy, a backup.

CREATE TABLE hub_marks (
    -- One life of a hub: made at random when it begins to trust what it reads.
    hub uuid NOT NULL,
    -- Transactions that are open at once raise a mark each, so that none waits for another.
    slot integer NOT NULL,
    number bigint NOT NULL,
    raised_at timestamptz NOT NULL,
    PRIMARY KEY (hub, slot)
)
-- Room on each page for the update that every transaction makes.
WITH (fillfactor = 50);

-- Whether all of the hub's marks stand at the numbers that it saw committed, or higher.
CREATE FUNCTION marks_stand (of_hub uuid, known_slots integer [], known_numbers bigint []) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT NOT EXISTS (
        SELECT FROM unnest(known_slots, known_numbers) AS known (slot, number)
        LEFT JOIN hub_marks h ON h.hub = of_hub AND h.slot = known.slot
        WHERE h.number IS NULL OR h.number < known.number
    )
$$;

-- Raises one mark for the transaction that calls it. Fails with TK001 where the store is not the one that the hub knows.
CREATE FUNCTION raise_mark (
    of_hub uuid, of_slot integer, to_number bigint, known_slots integer [], known_numbers bigint []
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT marks_stand(of_hub, known_slots, known_numbers) THEN
        RAISE 'the store went back behind what this hub saw committed' USING ERRCODE = 'TK001';
    END IF;
    INSERT INTO hub_marks AS old (hub, slot, number, raised_at) VALUES (of_hub, of_slot, to_number, now())
    ON CONFLICT (hub, slot) DO UPDATE SET number = EXCLUDED.number, raised_at = EXCLUDED.raised_at;
END
$$;
