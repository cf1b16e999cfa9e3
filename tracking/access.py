"""Access: what a principal may see of a trip, and which rule says so. It asks the functions that also guard every request."""

from typing import Any

from tracking.auth import MAY_SEE, Principal, Role, TripField, may_know_trip, may_see
from tracking.model import Trip, TripStatus

KNOWS = {
    Role.SERVICE: "a service knows every trip",
    Role.DISPATCHER: "a dispatcher knows the trips of the fleet that its token names",
    Role.PASSENGER: "a passenger knows the one trip that its token names",
    Role.DRIVER: "a driver knows the trips that are assigned to the vehicle that its token names",
    Role.OPERATOR: "an operator knows no trip",
}
"""For each role, a sentence that says which trips exist for it. `auth.may_know_trip` decides."""


def explain(role: Role, subject: str, trip: Trip, now: int) -> dict[str, Any]:
    """What a token of this role and subject, issued now, may see of the trip in its present status."""
    knows = may_know_trip(Principal(role, subject, "", now, issued_at=now), trip)
    sees = {field.value: _field(role, field, trip.status, knows=knows) for field in TripField}
    return {"knows": knows, "rule": KNOWS[role], "sees": sees}


def _field(role: Role, field: TripField, status: TripStatus, *, knows: bool) -> dict[str, Any]:
    if not knows:
        return {"may": False, "rule": f"it does not know the trip: {KNOWS[role]}"}
    shown = MAY_SEE[role][field]
    when = (
        "never"
        if not shown
        else "whatever the status of the trip"
        if len(shown) == len(TripStatus)
        else f"while the trip is {', '.join(member for member in TripStatus if member in shown)}"
    )
    return {"may": may_see(role, field, status), "rule": f"a {role} sees {_FIELDS[field]} {when}"}


_FIELDS = {
    TripField.LIVE: "the live feed",
    TripField.VEHICLE: "the vehicle and its plate",
    TripField.POSITION: "positions and the track",
}
