"""The databases of a long run: the last ones at hand, the others closed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar


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
