-- How far a day was looked through once more: all vehicles up to this one. It takes long, and hubs are started anew in between.
ALTER TABLE position_days ADD COLUMN settled_to integer NOT NULL DEFAULT 0;
