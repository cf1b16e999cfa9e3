-- The hubs that share this database.

-- Each hub renews its row every 2 s. All times are the database's.
CREATE TABLE nodes (
    -- Its boot id: random, new for each process.
    node text PRIMARY KEY,
    name text NOT NULL,
    release text NOT NULL,
    -- Whether it reaches other hubs by a broker. One that does not must be alone.
    has_broker boolean NOT NULL,
    began_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    -- A connection that is open as long as the hub runs. When it is gone, nobody waits for a hub that was killed.
    backend_pid integer NOT NULL,
    backend_start timestamptz NOT NULL
);

-- Hubs that have not gone down, been killed, or been silent for 10 s.
CREATE VIEW live_nodes AS
SELECT n.node, n.name, n.release, n.has_broker, n.began_at, n.seen_at
FROM nodes n
WHERE
    n.seen_at > statement_timestamp() - interval '10 seconds'
    AND EXISTS (
        SELECT FROM pg_stat_activity a
        -- The start is hidden from other users. A pid alone may belong to another connection for 10 s at most.
        WHERE a.pid = n.backend_pid AND coalesce(a.backend_start = n.backend_start, true)
    );

CREATE FUNCTION node_alive (of_node text) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM live_nodes WHERE node = of_node)
$$;

-- Names this installation to its hubs, so that two installations on one broker never mix.
CREATE TABLE installation (
    id uuid NOT NULL,
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row)
);
INSERT INTO installation (id) VALUES (gen_random_uuid());

-- A copy of the database is another installation, whether the copy was made from a template or from a dump.
CREATE FUNCTION cluster_id () RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT md5(concat_ws('/', i.id, (SELECT system_identifier FROM pg_control_system()), d.oid))
    FROM installation i, pg_database d WHERE d.datname = current_database()
$$;
