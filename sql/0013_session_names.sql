-- A session is a UUID, written in lower case. A device that wrote it in upper case goes on with the session that it had.
UPDATE sessions s
SET name = lower(s.name)
WHERE s.name ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
    AND s.name <> lower(s.name)
    -- Where it wrote both, each stays what it was: they hold different numbers.
    AND NOT EXISTS (
        SELECT 1 FROM sessions o WHERE o.vehicle = s.vehicle AND o.session <> s.session AND lower(o.name) = lower(s.name)
    );
