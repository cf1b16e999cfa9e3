"""Searching tables for what was removed."""


def is_no_notice(table: str) -> str:
    """A condition for SQL: the row is no notice of a removal. Only the change log has such notices."""
    if table != "changes" and not table.startswith("changes_d") and not table.startswith("changes_2"):
        return "true"
    removals = "SELECT transaction FROM changes WHERE kind = 'trip.deleted'"
    return f"kind NOT IN ('trip.deleted', 'vehicle.deleted') AND NOT (kind = 'vehicle.trips' AND transaction IN ({removals}))"
