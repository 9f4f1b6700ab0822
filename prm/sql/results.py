"""What a statement gives, rows or an error, and the memory of what statements gave before.

Model-written SQL repeats itself: of 7,560 answers of fourteen systems to Spider's questions, only half are
different texts. What a statement gave is therefore remembered under three things: the *fingerprint* of the
database, the normalised statement, and the limits under which it ran.

The fingerprint of a file is what `stat` says of it: device, inode, size, and the times at which its content
and its inode changed (the second cannot be set back by hand). A hash of the content would add nothing within
one process: it could only be made anew when `stat` changes, so it would be blind exactly where `stat` is,
and a database of some gigabytes takes seconds to hash. Where `stat` *is* blind is the grain of the clock: a
file that was written a moment ago can be written again without a visible change. Such a file is not
remembered yet (`GRAIN`, the rule that git uses for its index). Servers have no fingerprint at all
(`postgres_worker.py` says why): what they give is never remembered.

Results stay packed as the worker process sent them, so that their size is known exactly, and nobody can
change what others will be given: each reader unpacks rows of its own.
"""

from __future__ import annotations

import marshal
import os
import re
import threading
import time
from collections import OrderedDict
from typing import Any

GRAIN = 2.0  # seconds; the coarsest clock of a common file system (FAT)


class SQLError(Exception):
    """A statement gave no result. `kind` says why:

    `error` (the database cannot run it: syntax, unknown names …), `timeout`, `too_large` (rows, bytes or
    memory), `refused` (more than one statement, none, or one that does not just read), `crashed` (it took
    two worker processes with it), `unavailable` (no statement can be run: the file is broken inside, the
    server does not answer).
    """

    def __init__(self, message: str, kind: str = "error") -> None:
        super().__init__(message)
        self.kind = kind


class Rows(list):
    """The rows of a result, a list of tuples; `columns` are the names of its columns."""

    columns: tuple[str, ...] = ()


#: What a worker answers: ("rows", column names, packed batches of rows, whether it may be remembered), or
#: (kind of error, message).
Answer = tuple[Any, ...]


def unpack(answer: Answer) -> Rows | SQLError:
    """An answer as what the caller gets: new rows, or an error to raise."""
    if answer[0] != "rows":
        return SQLError(answer[1], answer[0])
    rows = Rows()
    rows.columns = answer[1]
    for batch in answer[2]:
        rows += marshal.loads(batch)
    return rows


def file_fingerprint(path: str | os.PathLike[str]) -> tuple[int, ...] | None:
    """What tells this content of a file from every other; None where it cannot be known (see above)."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def is_settled(fingerprint: tuple[int, ...]) -> bool:
    """Whether a further write to the file would show in its fingerprint for certain."""
    return time.time() - max(fingerprint[3:]) / 1e9 > GRAIN


_OTHER_SPACE = r"[\t\n\f\r]|(?>--[^\n]*(?:\n|\Z))|(?>/\*.*?(?:\*/|\Z))"  # a comment ends where it first can
#: Quoted things, which stay as they are, and what else stands for one space: white space and comments.
_QUOTED_OR_SPACE = re.compile(
    r"""('[^']*(?:'|\Z)|"[^"]*(?:"|\Z)|`[^`]*(?:`|\Z)|\[[^\]]*(?:\]|\Z))"""
    rf"|(?: |{_OTHER_SPACE}){{2,}}|{_OTHER_SPACE}",
    re.S,
)

#: What is not a single space; a text without it is normalised but for its ends.
_SPACED_OTHERWISE = re.compile(r"[\t\n\f\r]|  |--|/\*")
_QUOTED_NAME = re.compile(r"""["`\[]""")
_SPACED_NAME = re.compile(r"""["`\[].*?(?:\s|--|/\*)""", re.S)


def names_by_space(sql: str) -> bool:
    """Whether white space stands in a quoted name. SQLite names a computed column by its text, so the name
    may be that of a column (`"a + 1"`) which has another one in another spelling."""
    if not _QUOTED_NAME.search(sql):
        return False
    return any(_SPACED_NAME.match(match[1] or "") for match in _QUOTED_OR_SPACE.finditer(sql))


def normalised(sql: str) -> str:
    """An SQLite statement with single spaces for white space and comments, and without a closing semicolon.

    Upper and lower case stay: `SELECT NAME AS Who` names its column `Who`.
    """
    text = sql
    if _SPACED_OTHERWISE.search(sql):
        text = _QUOTED_OR_SPACE.sub(lambda match: match[1] or " ", sql)
    text = text.strip(" ")
    return text.removesuffix(";").rstrip(" ")


class ResultCache:
    """The answers of the statements used last, of at most `max_bytes` together. Threads may share it.

    A statement is found under its own text. One of SQLite's (`normal=True`) is found under its normalised
    text, too, where that cannot change the names of its columns (SQLite names a computed column by its very
    text, white space included) nor what is read by such a name. Other engines quote in ways of their own
    (`$$a  b$$`).
    """

    def __init__(self, max_bytes: int = 64 << 20) -> None:
        self.max_bytes = max_bytes
        self.size = 0
        self._lock = threading.Lock()
        self._answers: OrderedDict[tuple[Any, ...], tuple[Answer, int]] = OrderedDict()

    def get(self, where: tuple[Any, ...], sql: str, *, normal: bool) -> Answer | None:
        """What `sql` gave under `where` (fingerprint and limits), or None."""
        normal = normal and not names_by_space(sql)
        with self._lock:
            for key in ((*where, False, sql), (*where, True, normalised(sql)))[: 1 + normal]:
                if (found := self._answers.get(key)) is not None:
                    self._answers.move_to_end(key)
                    return found[0]
        return None

    def put(self, where: tuple[Any, ...], sql: str, answer: Answer, *, normal: bool) -> None:
        """Remember what `sql` gave under `where`; an answer of more than an eighth of the memory is not."""
        normal &= answer[0] == "rows" and not any(re.search(r"\s|--|/\*", column) for column in answer[1])
        normal &= not names_by_space(sql)
        text = normalised(sql) if normal else sql
        key = (*where, normal, text)
        size = 500 + 2 * len(text) + sum(map(len, answer[2])) if answer[0] == "rows" else 1000 + 2 * len(text)
        if size > self.max_bytes // 8:
            return
        with self._lock:
            if (old := self._answers.pop(key, None)) is not None:
                self.size -= old[1]
            self._answers[key] = (answer, size)
            self.size += size
            while self.size > self.max_bytes:
                self.size -= self._answers.popitem(last=False)[1][1]

    def clear(self) -> None:
        with self._lock:
            self._answers.clear()
            self.size = 0

    def _after_fork(self) -> None:
        """In a forked child: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()
        self.clear()


#: Shared by all databases of the process.
RESULTS = ResultCache()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=RESULTS._after_fork)
