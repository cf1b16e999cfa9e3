-- Both change the audit as its owner. So they are for those alone whom the owner lets: by default each role that can connect may call
-- a function, and so could empty the audit, or rename what stands in it.
REVOKE EXECUTE ON FUNCTION purge_audit (bigint, timestamptz, integer) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION disguise_in_audit (text, text, text) FROM PUBLIC;
