-- Which hub holds a watch or an export open, by its boot id. So a hub that starts ends only what dead hubs left open. NULL: a hub
-- from before this column, which was alone.
ALTER TABLE audit_open ADD COLUMN node text;
