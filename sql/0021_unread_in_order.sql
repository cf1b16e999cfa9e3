-- Unread messages are told in pages, oldest first: each page begins where the one before ended, and reads no more than itself.
CREATE INDEX messages_unread_in_order ON messages (trip, message) WHERE sender <> 'driver' AND read_at IS NULL;
DROP INDEX messages_unread;
