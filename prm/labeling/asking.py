"""Requests to a model whose answers are kept, so that none is paid for twice.

Every request has a key made of all that it says, and a seed of its own; its answer goes into a journal
(`prm.jobs.journal`) under that key. So a run that was killed at any moment asks for what is missing, and
the rest comes out as if nothing had happened. The journal stays after the run: the same command with more
rollouts asks only for those that are new.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prm.errors import InputError
from prm.inference.policies import Answered, Failed, Policy, Request
from prm.jobs.journal import Journal

#: A run ends after so many requests in a row that no server answers …
MAX_UNANSWERED = 3
#: … and after so many that are refused before any is answered. Not fewer: the prompts of one large database
#: may all be too long for a model that reads the others.
MAX_REFUSED = 200

Record = dict[str, Any]


class Answers:
    """Asks a policy what the journal does not hold yet. `resumed` counts what it held."""

    def __init__(self, journal: Journal, policy: Policy) -> None:
        self.journal, self.policy = journal, policy
        self.resumed = 0
        self._answered = len(journal) > 0
        self._unanswered = 0
        self._refused: list[tuple[str, Record]] = []

    def ask(
        self, requests: Sequence[tuple[str, Request]], record: Callable[[int, Answered], Record]
    ) -> Iterator[tuple[int, Record]]:
        """(index, record) of every request, those of earlier runs first, the others as they are answered.

        `record` makes of an answer what is remembered. A request that the model refuses gives
        `{"refused": why}`, one that nobody answers `{"unanswered": why}`, which is not remembered.

        Raises:
            InputError: the server gives no answer several times in a row, or refuses whatever it is asked.
        """
        new: dict[str, list[int]] = {}
        for i, (key, _) in enumerate(requests):
            if key in self.journal:
                self.resumed += 1
                yield i, self.journal[key]
            else:
                new.setdefault(key, []).append(i)
        firsts = [indexes[0] for indexes in new.values()]
        with contextlib.closing(self.policy.answer([requests[i][1] for i in firsts])) as answers:
            for n, answer in answers:
                key = requests[firsts[n]][0]
                if isinstance(answer, Failed):
                    made = self._failed(key, answer)
                else:
                    made = record(firsts[n], answer)
                    self._answered, self._unanswered = True, 0
                    self.journal.add(key, made)
                    for waiting in self._refused:
                        self.journal.add(*waiting)
                    self._refused.clear()
                for i in new[key]:
                    yield i, made

    def _failed(self, key: str, failed: Failed) -> Record:
        if not failed.refused:
            self._unanswered += 1
            if self._unanswered >= MAX_UNANSWERED:
                raise InputError(f"{failed.why}; run the same command again to go on where this ended")
            return {"unanswered": failed.why}
        made = {"refused": failed.why}
        if self._answered:
            self.journal.add(key, made)
        else:
            self._refused.append((key, made))
            if len(self._refused) >= MAX_REFUSED:
                self.check()
        return made

    def check(self) -> None:
        """At the end of a run: that something was answered, if anything was asked.

        Raises:
            InputError: the model has refused all of it. It is not remembered, so that it can be mended.
        """
        if self._refused:
            raise InputError(
                f"the model refuses whatever it is asked: {self._refused[-1][1]['refused']}; check --model "
                "and --max-new-tokens, and whether the server knows this --api (chat-ask is the plainest)"
            )


def digest(*parts: object) -> str:
    """A name for what the parts say, in order; for keys and seeds."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode("utf-8", "replace")).hexdigest()[:32]


def seed_of(*parts: object) -> int:
    """A seed of 31 bits (what every server takes) from what the parts say."""
    return int(digest(*parts)[:12], 16) & 0x7FFFFFFF
