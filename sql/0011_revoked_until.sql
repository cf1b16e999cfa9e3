-- A revoked token needs to be remembered until it would have expired. NULL where that is not known: for ever.
ALTER TABLE revoked_tokens ADD COLUMN expires_at timestamptz;

UPDATE revoked_tokens SET expires_at = shares.expires_at FROM shares WHERE shares.jti = revoked_tokens.jti;
