-- The home of each vehicle: the hub that holds its driver's connection, and that alone may store what it reports.

CREATE TABLE homes (
    vehicle integer PRIMARY KEY REFERENCES vehicles ON DELETE CASCADE,
    -- Rises each time another hub takes over. A vehicle without a row has term 0.
    term bigint NOT NULL,
    -- The boot id of the hub.
    node text NOT NULL,
    -- The name of the session that its driver said when the hub took over.
    session text NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT now()
)
-- A claim changes no column of an index, so the row stays on its page.
WITH (fillfactor = 70);

-- The term of the vehicle's home, in each of its sessions: the recorder locks these rows with every commit, and compares it.
ALTER TABLE sessions ADD COLUMN term bigint NOT NULL DEFAULT 0;
