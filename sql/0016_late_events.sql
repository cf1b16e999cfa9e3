-- Whether an event came out of a backlog: it is listed, and pressed on nobody. Those stored before this are not told apart.
ALTER TABLE events ADD COLUMN late boolean NOT NULL DEFAULT false;

-- A fleet's news: found without walking what a week's backlog told after it.
CREATE INDEX events_of_news ON events (fleet_id, event) WHERE NOT late;
