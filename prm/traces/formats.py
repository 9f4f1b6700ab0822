"""Files in and out: every common way to store step-labelled reasoning becomes a list of `Trace`s, and goes back to disk.

One road leads in. A *source* (file, folder, Hub id, `datasets.Dataset`, or a list of those) gives rows with their
place; each row is recognised by its columns, turned into the native form, and checked by `Trace.from_dict`. So there is one
place that knows what a valid trace is, and a converter is nothing but a function from one foreign row to native rows.
Rows are read one at a time: a file larger than memory can be converted.

| format | columns | labels |
|---|---|---|
| native | `question`, `steps` | cumulative, or as `label_scheme` says |
| trl | `prompt`, `completions`, `labels` | each step alone; the prompt is kept verbatim under `prompt` |

Malformed rows stop the reading with an `InputError` that names file and line, or are skipped and counted.
"""

from __future__ import annotations

import contextlib
import difflib
import gzip
import io
import json
import logging
import math
import os
import re
import secrets
import shutil
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from prm.errors import InputError
from prm.traces.trace import Trace

log = logging.getLogger("prm")

Row = dict[str, Any]
#: A row and its line (from 1), or the error that stands where a row should be.
Rows = Iterator[tuple[int, Any]]
Source = Any  # str | Path | datasets.Dataset | list of those

#: A longer line is no trace but a wrong file; reading it whole would only fill the memory.
MAX_LINE_BYTES = 64 * 2**20
DATA_SUFFIXES = (".jsonl", ".json", ".parquet", ".jsonl.gz", ".json.gz")


# Reading


def load_traces(
    source: Source, *, split: str | None = None, labels: str = "strict", on_bad_rows: str = "stop"
) -> list[Trace]:
    """Read all traces of `source`; see `read_traces`, which does the same one trace at a time."""
    return list(read_traces(source, split=split, labels=labels, on_bad_rows=on_bad_rows))


def read_traces(
    source: Source,
    *,
    split: str | None = None,
    format: str = "auto",
    labels: str = "strict",
    on_bad_rows: str = "stop",
) -> Iterator[Trace]:
    """Yield the traces of `source` in order, reading one row at a time.

    Args:
        source: a JSONL, JSON or Parquet file (gzipped JSON, too), a folder of such files or one written by
            `Dataset.save_to_disk`, the id of a data set on the Hub, a `datasets.Dataset`, or a list of those.
        split: which split of a folder or Hub data set; needed only where there are several.
        format: one of `FORMATS`, or `auto`: by the columns of each row.
        labels: `strict` refuses native labels that return to 1 after a 0; `prefix` folds them, and step-wise labels too.
        on_bad_rows: `stop` at the first malformed row, or `skip` them and log their number by reason at the end.

    Raises:
        InputError: the source is missing, holds no trace, or (with `stop`) a row is malformed.
    """
    tally = _Tally()
    yield from _read(source, split=split, format=format, labels=labels, on_bad_rows=on_bad_rows, tally=tally)
    for line in tally.report():
        log.warning(line)


def from_rows(
    rows: Iterable[Row],
    *,
    name: str = "rows",
    format: str = "auto",
    labels: str = "strict",
    on_bad_rows: str = "stop",
) -> list[Trace]:
    """Traces out of rows that are in memory already (dicts of any known format); `name` stands for the file in errors."""
    tally = _Tally()
    numbered = enumerate(rows, start=1)
    traces = list(_traces(numbered, name, format=format, labels=labels, on_bad_rows=on_bad_rows, tally=tally))
    for line in tally.report():
        log.warning(line)
    return traces


@dataclass
class _Tally:
    """What happened to the rows that did not simply become a trace."""

    rows: int = 0
    folded: int = 0
    stepless: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def skip(self, error: InputError, name: str, line: int) -> None:
        reason = re.sub(r"\d+", "N", str(error))[:120]
        self.skipped[reason] += 1
        self.first.setdefault(reason, f"{name}:{line}")

    def report(self) -> list[str]:
        lines = []
        if self.skipped:
            reasons = "; ".join(f"{n} x {r} (first: {self.first[r]})" for r, n in self.skipped.most_common())
            lines.append(f"skipped {self.skipped.total()} of {self.rows} rows: {reasons}")
        if self.folded:
            lines.append(
                f"folded the labels of {self.folded} traces: after the first error every step is wrong"
            )
        return lines


def _read(
    source: Source, *, split: str | None, format: str, labels: str, on_bad_rows: str, tally: _Tally
) -> Iterator[Trace]:
    if labels not in ("strict", "prefix"):
        raise InputError(f"labels must be 'strict' or 'prefix', not {labels!r}")
    if on_bad_rows not in ("stop", "skip"):
        raise InputError(f"on_bad_rows must be 'stop' or 'skip', not {on_bad_rows!r}")
    for name, rows in _sources(source, split):
        n = 0
        for trace in _traces(rows, name, format=format, labels=labels, on_bad_rows=on_bad_rows, tally=tally):
            n += 1
            yield trace
        if n == 0:
            why = "; ".join(tally.report())
            raise InputError("holds no traces" + (f" ({why})" if why else ""), file=name)


def _traces(
    rows: Rows, name: str, *, format: str, labels: str, on_bad_rows: str, tally: _Tally
) -> Iterator[Trace]:
    for line, row in rows:
        tally.rows += 1
        try:
            if isinstance(row, InputError):
                raise row
            traces = [_trace(native, labels == "prefix", tally) for native in _native_rows(row, format)]
        except InputError as error:
            if on_bad_rows == "stop":
                raise InputError(str(error), file=name, line=line) from None
            tally.skip(error, name, line)
            continue
        yield from traces


def _trace(row: Any, prefix: bool, tally: _Tally) -> Trace:
    trace = Trace.from_dict(row, prefix=prefix)
    if prefix:
        before = [step.get("label") for step in row["steps"]]
        tally.folded += any(a == 0 and b not in (0, None) for a, b in zip(trace.labels, before, strict=True))
    return trace


def _native_rows(row: Any, format: str) -> Iterable[Row]:
    return [row]


def _sources(source: Source, split: str | None) -> Iterator[tuple[str, Rows]]:
    """Yield each file or data set behind `source` with its rows."""
    if isinstance(source, (list, tuple)):
        if not source:
            raise InputError("no files given")
        for item in source:
            yield from _sources(item, split)
    else:
        path = Path(source).expanduser()
        if not path.exists():
            raise InputError(f"there is no such file{_nearest_file(path)}", file=str(source))
        yield str(source), _file_rows(path)


def _nearest_file(path: Path) -> str:
    try:
        names = os.listdir(path.parent)
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"; did you mean {path.parent / near[0]}?" if near else ""


def _file_rows(path: Path) -> Rows:
    """Rows of one file; what kind of file it is, its first bytes and its suffix say."""
    try:
        with open(path, "rb") as handle:
            yield from _json_lines(handle)
    except OSError as error:
        raise InputError(f"cannot be read: {error}", file=str(path)) from None


def _json_lines(handle: IO[bytes]) -> Rows:
    line = 0
    while raw := handle.readline(MAX_LINE_BYTES):
        line += 1
        if len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):
            while raw and not raw.endswith(b"\n"):
                raw = handle.readline(MAX_LINE_BYTES)
            yield line, InputError(f"the line is longer than {MAX_LINE_BYTES} bytes; is this JSON lines?")
            continue
        if line == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if not raw.strip():
            continue
        try:
            yield line, _parse_line(raw)
        except InputError as error:
            yield line, error


def _parse_line(raw: bytes) -> Any:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8") from None
    try:
        value = _JSON.decode(text)
    except json.JSONDecodeError as error:
        cut = "" if raw.endswith(b"\n") else "; the file ends within this line: restore it or delete the line"
        raise InputError(f"not JSON: {error.msg} at column {error.colno}{cut}") from None
    except (RecursionError, ValueError) as error:
        raise _unreadable(error) from None
    _refuse_surrogates(text, value)
    return value


def _unreadable(error: Exception) -> InputError:
    """Why a JSON text that is well-formed may still not be read."""
    if isinstance(error, InputError):
        return error
    if isinstance(error, RecursionError):
        return InputError("nested too deeply; a trace is a flat object with a list of steps")
    return InputError(f"not JSON that can be read: {error}")


def _refuse_surrogates(text: str, value: Any) -> None:
    """Half of a surrogate pair is no character: no tokenizer, Parquet file or UTF-8 file can hold it."""
    if "\\u" not in text:  # the only way in: the UTF-8 decoder has refused all others
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError(
            "the text holds half of a surrogate pair (such as \\ud83d alone), often a cut emoji; remove it"
        ) from None
    except RecursionError as error:
        raise _unreadable(error) from None


def _object(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise InputError(f"the key {twice[:40]!r} stands twice in one object; keep one of them")
    return row


def _constant(name: str) -> Any:
    raise InputError(f"{name} is no JSON number; write null, or a number")


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise InputError(f"the number {digits[:40]} is too large for a float")
    return value


_JSON = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)


# Writing


def write_traces(traces: Iterable[Trace], path: str | Path) -> int:
    """Write `traces` as JSONL and return their number. The old file stays as it is until all is written.

    Raises:
        InputError: the file cannot be written there, or an unknown key holds what JSON cannot say.
    """
    n = 0
    with atomic_write(path) as handle:
        for trace in traces:
            handle.write(_dump(trace.to_dict()) + "\n")
            n += 1
    return n


def _dump(value: Any) -> str:
    """JSON in one line that anyone can read back: NaN and infinities become null, half surrogate pairs U+FFFD."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file that appears under `path` only once it is complete.

    It is written beside `path`, flushed to the disk and renamed; on an error, an interrupt or a full disk the old file
    stays and the half-written one is removed. Parent folders are made. Devices and pipes (`/dev/stdout`) are written
    directly. `mode` is `w` (UTF-8, `\\n`) or `wb`.

    Raises:
        InputError: `path` is a folder or cannot be written.
    """
    name, text = str(path), {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    target = Path(os.path.realpath(Path(path).expanduser()))  # through links: they stay links
    try:
        if target.is_dir():
            raise InputError("is a folder; name a file to write", file=name)
        if target.exists() and not target.is_file():
            with open(target, mode, **text) as handle:
                yield handle
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.parent / f".{secrets.token_hex(8)}.tmp"
        handle = open(part, mode.replace("w", "x"), **text)  # noqa: SIM115 (closed below)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", file=name) from None
    try:
        with handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        if target.exists():
            shutil.copymode(target, part)
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut; where folders cannot be opened, do without."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
