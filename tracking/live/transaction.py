"""A transaction on the store that publishes changes with its COMMIT."""

from typing import Any

from tracking.store.changes import Change, ChangeKind
from tracking.store.pool import Connection


class Transaction:
    """An open transaction, and the changes that COMMIT is to publish."""

    __slots__ = ("changes", "connection", "number")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.changes: list[Change] = []
        self.number: int | None = None
        """Its number in the log, once changes were appended."""

    def tell(
        self,
        kind: ChangeKind,
        subject: str,
        *,
        fleet_id: str | None = None,
        vehicle: int | None = None,
        public: Any = None,
        internal: Any = None,
    ) -> None:
        """Has COMMIT publish a change: see `Change`."""
        self.changes.append(Change(kind, subject, fleet_id, vehicle, public, internal))
