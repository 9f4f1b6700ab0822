"""What all ways of labelling do with databases: keep the last ones at hand, and say why gold cannot judge."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

from prm.errors import InputError
from prm.sql.database import Database, SQLError, without_password

#: Why a question cannot be labelled by execution.
GOLD_FAULTS = {
    "gold_fails": "gold SQL does not run",
    "gold_timeout": "gold SQL outlives its time",
    "gold_too_large": "gold gives too many rows",
    "gold_empty": "gold gives no rows, so nothing could tell right from wrong",
}
#: Why an answer that is equal on the database has no label.
UNDECIDED = "the answer is equal on the database, but was not compared on all variants"


def gold_fault(error: SQLError) -> str:
    """The key of `GOLD_FAULTS` for gold that gives no rows but an error."""
    return {"timeout": "gold_timeout", "too_large": "gold_too_large"}.get(error.kind, "gold_fails")


def check_reachable(error: SQLError, database: Database) -> None:
    """An error that is the database's own says nothing against the SQL.

    Raises:
        InputError: it is such an error.
    """
    if error.kind == "unavailable":
        raise InputError(str(error), file=without_password(str(database.path))) from None


class _Closable(Protocol):
    def close(self) -> None: ...


Key = TypeVar("Key", bound=Hashable)
Opened = TypeVar("Opened", bound=_Closable)


class LastUsed(Generic[Key, Opened]):
    """The things used last, made by `make(key)` where they are not at hand; questions come mostly database by
    database. Beyond `limit`, the one that was not used for longest is closed."""

    def __init__(self, make: Callable[[Key], Opened], limit: int = 4) -> None:
        self.make, self.limit = make, limit
        self._at_hand: OrderedDict[Key, Opened] = OrderedDict()

    def __getitem__(self, key: Key) -> Opened:
        if key not in self._at_hand:
            self._at_hand[key] = self.make(key)
        self._at_hand.move_to_end(key)
        if len(self._at_hand) > self.limit:
            self._at_hand.popitem(last=False)[1].close()
        return self._at_hand[key]

    def close(self) -> None:
        """Close all of them."""
        while self._at_hand:
            self._at_hand.popitem()[1].close()
