-- Who may see what, and who no longer may.
CREATE TABLE shares (
    share_id text PRIMARY KEY,
    trip integer NOT NULL REFERENCES trips ON DELETE CASCADE,
    -- The token inside the link; revoking the share revokes it.
    jti text NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz
);

-- Listing the shares of a trip.
CREATE INDEX shares_by_trip ON shares (trip);

CREATE TABLE revoked_tokens (
    jti text PRIMARY KEY,
    revoked_at timestamptz NOT NULL
);
