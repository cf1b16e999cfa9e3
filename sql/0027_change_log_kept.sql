-- How much of the change log is kept, and what its upkeep needs.

-- Everything up to this number is no longer kept, whether its rows are gone yet or not: so what is kept has no holes.
CREATE TABLE changes_kept (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    after bigint NOT NULL
);
INSERT INTO changes_kept (after) VALUES (0);

-- With the number, so that the batches of an erasure go through a vehicle's rows once.
DROP INDEX changes_by_vehicle;
CREATE INDEX changes_by_vehicle ON changes (vehicle, number) WHERE vehicle IS NOT NULL;

-- Whether a day has rows here. While it has, it can't have a partition.
CREATE INDEX changes_default_by_at ON changes_default (at);
