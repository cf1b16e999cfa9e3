-- Whoever calls the functions that change the audit as its owner has no say in what their names mean. Temporary tables are found
-- first unless they are named last: one called `audit`, with a trigger, would be run as the owner.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION purge_audit (bigint, timestamptz, integer) SET search_path TO %I, pg_temp', current_schema());
    EXECUTE format('ALTER FUNCTION disguise_in_audit (text, text, text) SET search_path TO %I, pg_temp', current_schema());
END
$$;
