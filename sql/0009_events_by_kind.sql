-- A fleet's events of one kind or at one fence, which may be rare: found without walking all the others.
CREATE INDEX events_by_kind ON events (fleet_id, kind, event);
CREATE INDEX events_by_geofence ON events (fleet_id, geofence_id, event) WHERE geofence_id IS NOT NULL;
