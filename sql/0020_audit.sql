-- Who did what: tokens and shares made and revoked, erasures, exports, and who watched which trip. It holds no places.

-- A row is written once. What lasts, a watch or an export, is two rows of one span: its begin and its end.
CREATE TABLE audit (
    entry bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL,
    -- When it was written, by the hub's clock: what waited for the database is written later than it happened.
    recorded_at timestamptz NOT NULL,
    action text NOT NULL,
    -- Who did it, as the token says: its role, whom it is about, and its id; never the token itself.
    role text NOT NULL,
    holder text NOT NULL,
    jti text NOT NULL,
    share_id text,
    address text,
    -- To what: a vehicle, trip, fleet or token, by its id; a pseudonym, which begins with `~`, once that was erased.
    kind text NOT NULL,
    subject text NOT NULL,
    span uuid,
    detail jsonb
);

-- All that was done to one thing, in its order; and what is made a pseudonym when it is erased.
CREATE INDEX audit_by_subject ON audit (subject, entry);
-- What was issued or revoked by a token's id.
CREATE INDEX audit_by_token ON audit ((detail ->> 'jti')) WHERE detail ->> 'jti' IS NOT NULL;
-- All of one kind of deed, however rare it is.
CREATE INDEX audit_by_action ON audit (action, entry);
-- The end of a begin; and a group of rows that is sent once more adds none.
CREATE UNIQUE INDEX audit_by_span ON audit (span, action) WHERE span IS NOT NULL;

-- Spans that have begun and not ended. What stands here when a hub starts was cut off by the end of the hub before.
CREATE TABLE audit_open (
    span uuid PRIMARY KEY
);

-- The key of the pseudonyms, random for each database.
CREATE TABLE audit_key (
    one boolean PRIMARY KEY DEFAULT TRUE CHECK (one),
    key bytea NOT NULL
);

INSERT INTO audit_key (key)
VALUES (decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));

-- Refuses what is not adding, whoever asks. The two functions below say that they may.
CREATE FUNCTION keep_audit () RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('tracking.audit_change', TRUE) IS DISTINCT FROM TG_OP THEN
        RAISE 'the audit is only ever added to: % is refused', TG_OP
            USING ERRCODE = 'TK002', HINT = 'What is old enough goes by purge_audit().';
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF NEW.subject NOT LIKE '~%' OR to_jsonb(NEW) - 'subject' - 'holder' <> to_jsonb(OLD) - 'subject' - 'holder' THEN
            RAISE 'the audit is only ever added to: nothing but an erased id is changed' USING ERRCODE = 'TK002';
        END IF;
        RETURN NEW;
    END IF;
    RETURN OLD;
END
$$;

CREATE TRIGGER audit_is_kept BEFORE UPDATE OR DELETE ON audit
FOR EACH ROW EXECUTE FUNCTION keep_audit();
CREATE TRIGGER audit_is_not_emptied BEFORE TRUNCATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION keep_audit();

-- The two ways to change it run as the owner of the table. So the hub's own role needs no right but to read and add.

-- Looks at so many rows that follow an entry, and removes those that were written before an instant: how many, and which entry it
-- came to, NULL where none is old enough. Entries rise with the time, but for some that are written at once.
CREATE FUNCTION purge_audit (follows bigint, before timestamptz, most integer, OUT removed bigint, OUT reached bigint)
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT SET tracking.audit_change TO 'DELETE' AS $$
    WITH seen AS MATERIALIZED (
        SELECT entry, recorded_at < before AS due FROM audit WHERE entry > follows ORDER BY entry LIMIT most
    ),
    gone AS (DELETE FROM audit WHERE entry = ANY(ARRAY(SELECT entry FROM seen WHERE due)) RETURNING 1)
    SELECT (SELECT count(*) FROM gone), CASE WHEN bool_or(due) THEN max(entry) END FROM seen
$$;

-- Puts a pseudonym in the place of an id: where something was done to it, and where that was done by its own token.
CREATE FUNCTION disguise_in_audit (of_kind text, id text, pseudonym text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT SET tracking.audit_change TO 'UPDATE' AS $$
    UPDATE audit SET subject = pseudonym, holder = CASE WHEN holder = id THEN pseudonym ELSE holder END
    WHERE subject = id AND kind = of_kind
$$;
