-- Which hub does each job that one hub is enough for. All times are the database's.

-- A row is written when a job is taken and when it is taken anew. It says who does the job, not how far it has come.
CREATE TABLE leases (
    job text PRIMARY KEY,
    -- The boot id of the hub. No foreign key: a hub has no row in `nodes` before it was admitted.
    holder text NOT NULL,
    -- Afterwards any hub may take the job. It may be taken before if the holder is not alive.
    expires timestamptz NOT NULL
)
-- Taking it anew changes no column of an index, so the row stays on its page.
WITH (fillfactor = 70);
