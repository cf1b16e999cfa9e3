-- A `client_id` is of one token or share: two apps on one trip may both count from 1.

-- Whose token or share it was, as a digest; of messages from before, nobody knows.
ALTER TABLE messages ADD COLUMN author bytea NOT NULL DEFAULT '';
ALTER TABLE messages ALTER COLUMN author DROP DEFAULT;
ALTER TABLE messages DROP CONSTRAINT messages_trip_sender_client_id_key;
ALTER TABLE messages ADD UNIQUE (trip, sender, author, client_id);
