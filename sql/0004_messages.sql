-- Messages between the driver and the passenger of a trip.
CREATE TABLE messages (
    message bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    trip integer NOT NULL REFERENCES trips ON DELETE CASCADE,
    sender text NOT NULL CHECK (sender IN ('driver', 'passenger')),
    -- The sender's own name for it: sending it again stores nothing.
    client_id text NOT NULL,
    text text NOT NULL,
    server_time timestamptz NOT NULL,
    -- When the driver's app showed that it was there to get it.
    read_at timestamptz,
    UNIQUE (trip, sender, client_id)
);

-- What a connecting driver has not read yet.
CREATE INDEX messages_unread ON messages (trip) WHERE sender = 'passenger' AND read_at IS NULL;
