"""Files in and out: every usual way to store step-labelled reasoning becomes `Trace`s, and goes back to disk.

One road leads in. A *source* (file, folder, Hub id, `datasets.Dataset`, or a list of those) gives rows with
their line; each row is recognised by its columns, moved into the native form by `prm.traces.converters`, and
checked by `Trace.from_dict`. So one place knows what a valid trace is, and files know nothing of formats.
Rows are read one at a time: a file larger than memory can be converted.

Input is hostile until it is read: bytes that are not UTF-8, cut files, keys that stand twice, NaN, numbers
beyond a float, half surrogate pairs, JSON nested a thousand deep. A malformed row stops the reading with an
`InputError` that names file and line, or is skipped and counted; a file that cannot be read on (a cut gzip
stream) stops it always.

Two things on the disk are ours: Parquet files have the native columns, and one more, `extra_json`, in the
trace and in its steps, with all unknown keys as JSON text (their types may differ from row to row, which no
column can hold); and every file is written beside its place and renamed when it is complete.
"""

from __future__ import annotations

import contextlib
import datetime
import decimal
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
from itertools import islice
from pathlib import Path
from typing import IO, Any

from prm.errors import InputError
from prm.traces.converters import FORMATS, native_rows
from prm.traces.trace import TRACE_FIELDS, Step, Trace

log = logging.getLogger("prm")

Row = dict[str, Any]
#: A row and its line (from 1), or the error that stands where a row should be.
Rows = Iterator[tuple[int, Any]]
#: A path or Hub id, a `datasets.Dataset` or `DatasetDict`, or a list of those.
Source = Any

#: A longer line is no trace but a wrong file; reading it whole would only fill the memory.
MAX_LINE_BYTES = 64 * 2**20
DATA_SUFFIXES = (".jsonl", ".json", ".parquet", ".jsonl.gz", ".json.gz")
#: Traces in one row group of a Parquet file.
GROUP_SIZE = 1000
BOM = b"\xef\xbb\xbf"
SPLIT_NAMES = {"train", "dev", "valid", "val", "validation", "test"}


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
            `folder:train` and `owner/name:train` name a split.
        split: which split of every folder or Hub data set that names none itself; needed only where there
            are several.
        format: a key of `prm.traces.converters.FORMATS`, or `auto`: by the columns of each row.
        labels: `strict` keeps labels and refuses native ones that return to 1 after a 0; `prefix` folds both
            those and step-wise labels, and logs how many.
        on_bad_rows: `stop` at the first malformed row, or `skip` them and log their number by reason.

    Raises:
        InputError: the source is missing or holds no trace, or (with `stop`) a row is malformed.
    """
    tally = Tally()
    yield from counted_traces(
        source, tally, split=split, format=format, labels=labels, on_bad_rows=on_bad_rows
    )
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
    """Traces out of rows in memory (dicts in any known format); `name` stands for the file in errors."""
    tally = Tally()
    traces = list(_traces(enumerate(rows, start=1), name, tally, format, labels, on_bad_rows))
    for line in tally.report():
        log.warning(line)
    return traces


def traces_from_dataset(dataset: Any, *, labels: str = "strict", on_bad_rows: str = "stop") -> list[Trace]:
    """Traces out of a `datasets.Dataset` or `IterableDataset` with TRL's or native columns."""
    rows = (row for _, row in _dataset_rows(dataset))
    return from_rows(rows, name="dataset", labels=labels, on_bad_rows=on_bad_rows)


@dataclass
class Tally:
    """What happened to the rows that did not simply become a trace."""

    rows: int = 0
    folded: int = 0
    stepless: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def skip(self, error: InputError, name: str, line: int) -> None:
        reason = re.sub(r"(?<!UTF-)\d+", "N", str(error))[
            :120
        ]  # rows that differ in numbers only have one reason
        self.skipped[reason] += 1
        self.first.setdefault(reason, f"{name}:{line}")

    def report(self) -> list[str]:
        """The lines to log: nothing where every row became a trace as it stood."""
        lines = []
        if self.skipped:
            most = self.skipped.most_common(5)
            reasons = "; ".join(f"{n} x {reason} (first: {self.first[reason]})" for reason, n in most)
            if len(self.skipped) > len(most):
                reasons += f"; and {len(self.skipped) - len(most)} more reasons"
            lines.append(f"skipped {self.skipped.total()} of {self.rows} rows: {reasons}")
        if self.stepless:
            lines.append(f"{self.stepless} rows hold no step and gave no trace")
        if self.folded:
            lines.append(f"folded the labels of {self.folded} traces: after the first error all are wrong")
        return lines


def counted_traces(
    source: Source,
    tally: Tally,
    *,
    split: str | None = None,
    format: str = "auto",
    labels: str = "strict",
    on_bad_rows: str = "stop",
) -> Iterator[Trace]:
    """`read_traces` for callers who report themselves what was skipped and folded: it counts into `tally`."""
    for name, rows in _sources(source, split):
        n = 0
        for trace in _traces(rows, name, tally, format, labels, on_bad_rows):
            n += 1
            yield trace
        if n == 0:
            why = "; ".join(tally.report())
            raise InputError(f"holds no traces{f' ({why})' if why else ''}", file=name)


def located_traces(
    source: Source, *, split: str | None = None, labels: str = "strict"
) -> Iterator[tuple[str, int, Trace | InputError]]:
    """The file and line (from 1) of every trace beside it, or beside the error that stands in its place: for
    those who check a file to its end."""
    for name, rows in _sources(source, split):
        for line, made in _converted(rows, "auto", labels):
            if isinstance(made, InputError):
                yield name, line, made
            else:
                yield from ((name, line, trace) for trace, _ in made)


def _traces(
    rows: Rows, name: str, tally: Tally, format: str, labels: str, on_bad_rows: str
) -> Iterator[Trace]:
    if labels not in ("strict", "prefix"):
        raise InputError(f"labels must be 'strict' or 'prefix', not {labels!r}")
    if on_bad_rows not in ("stop", "skip"):
        raise InputError(f"on_bad_rows must be 'stop' or 'skip', not {on_bad_rows!r}")
    if format != "auto" and format not in FORMATS:
        near = difflib.get_close_matches(format, FORMATS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"unknown format {format!r}; known are auto, {', '.join(FORMATS)}{hint}")
    for line, made in _converted(rows, format, labels):
        tally.rows += 1
        if isinstance(made, InputError):
            if on_bad_rows == "stop":
                raise InputError(str(made), file=name, line=line)
            tally.skip(made, name, line)
            continue
        tally.stepless += not made
        tally.folded += sum(folded for _, folded in made)
        for trace, _ in made:
            trace.place = name, line
            yield trace


def _converted(
    rows: Rows, format: str, labels: str
) -> Iterator[tuple[int, list[tuple[Trace, bool]] | InputError]]:
    """Each row's line, and the traces that it holds (with whether they were folded) or why there are none."""
    for line, row in rows:
        try:
            if isinstance(row, InputError):
                raise row
            made = [_trace(native, labels == "prefix") for native in native_rows(row, format)]
        except InputError as error:
            yield line, error
        else:
            yield line, made


def _trace(row: Row, prefix: bool) -> tuple[Trace, bool]:
    trace = Trace.from_dict(row, prefix=prefix)
    before = [step.get("label") for step in row["steps"]]
    return trace, any(a == 0 and b not in (0, None) for a, b in zip(trace.labels, before, strict=True))


# Sources


def _sources(source: Source, split: str | None) -> Iterator[tuple[str, Rows]]:
    """Each file or data set behind `source` with its rows."""
    if isinstance(source, (list, tuple)):
        if not source:
            raise InputError("no files given")
        for item in source:
            yield from _sources(item, split)
        return
    if not isinstance(source, (str, os.PathLike)):
        yield "dataset", _dataset_rows(_pick_split(source, split, "dataset"))
        return
    name = str(source)
    path = Path(source).expanduser()
    if "\0" in name or not name:
        raise InputError(f"{name!r} is no file name")
    if os.path.isdir(path):  # os.path: False, not an error, for names that no file can have
        yield from _folder(path, split)
    elif os.path.exists(path):
        yield name, _file_rows(path)
    elif _looks_like_hub_id(name):
        yield name, _hub_rows(name, split)
    elif (of := _of_split(name)) is not None:
        yield from _sources(*of)
    else:
        raise InputError(f"there is no such file{_nearest_file(path)}", file=name)


def _looks_like_hub_id(name: str) -> bool:
    """`owner/name`, and nothing that rather is a mistyped path: no data suffix, no folder `owner` here."""
    known_suffix = name.lower().endswith((*DATA_SUFFIXES, ".txt", ".csv", ".gz", ".arrow"))
    return (
        re.fullmatch(r"[\w][\w.-]*/[\w.-]+", name) is not None
        and not known_suffix
        and not Path(name).parent.is_dir()
    )


def _of_split(name: str) -> tuple[str, str] | None:
    """`folder:train` and `owner/name:train` as the two parts; None for all other names."""
    source, _, split = name.rpartition(":")
    known = source and (os.path.isdir(Path(source).expanduser()) or _looks_like_hub_id(source))
    return (source, split) if known and split else None


def _nearest_file(path: Path) -> str:
    folder = path.parent
    if not os.path.isdir(folder):
        return f": the folder {folder} does not exist"
    with contextlib.suppress(OSError):
        near = difflib.get_close_matches(path.name, os.listdir(folder), n=1, cutoff=0.6)
        if near:
            return f"; did you mean {folder / near[0]}?"
    return f" in {folder}"


def _folder(folder: Path, split: str | None) -> Iterator[tuple[str, Rows]]:
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        import datasets

        try:
            saved = datasets.load_from_disk(str(folder))
        except Exception as error:  # a broken folder raises whatever its broken part happens to raise
            raise InputError(
                f"cannot be loaded as a saved data set: {_one_line(error)}", file=str(folder)
            ) from None
        yield str(folder), _dataset_rows(_pick_split(saved, split, str(folder)))
        return
    try:
        files = sorted(
            path
            for place in (folder, folder / "data")  # `data/`: where clones of Hub data sets keep their files
            if place.is_dir()
            for path in place.iterdir()
            if path.name.lower().endswith(DATA_SUFFIXES)
            and not path.name.startswith((".", "dataset_info"))
            # what labelling writes beside its traces
            and not re.search(r"\.stats\.json$|\.journal(\.|$)", path.name.lower())
            and path.is_file()
        )
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=str(folder)) from None
    if not files:
        kinds = ", ".join(DATA_SUFFIXES)
        raise InputError(
            f"the folder has no data: no file ends in {kinds}, no saved data set", file=str(folder)
        )
    splits = {path: set(re.split(r"[-_.]", path.name.lower())) & SPLIT_NAMES for path in files}
    if split is not None:
        # the whole name (processbench's gsm8k.json), or a part of it (train-00000-of-00002.parquet)
        files = [path for path in files if split in (path.name.split(".")[0], *re.split(r"[-_.]", path.name))]
        if not files:
            have = ", ".join(path.name for path in islice(splits, 8))
            raise InputError(f"the folder has no split {split!r}, only {have}", file=str(folder))
    elif len(found := set().union(*splits.values())) > 1:
        names = ", ".join(sorted(found))
        raise InputError(
            f"the folder has the splits {names}; name a file, or one, as {folder}:{min(found)} "
            "(split= in Python)",
            file=str(folder),
        )
    for path in files:
        yield str(path), _file_rows(path)


def _hub_rows(name: str, split: str | None) -> Rows:
    import datasets

    try:
        if split is None:  # ask before anything is downloaded
            split = _only(datasets.get_dataset_split_names(name), name)
        dataset = datasets.load_dataset(name, split=split)
    except InputError:
        raise
    except Exception as error:  # no network, no such id, no such split: each has its own family of exceptions
        raise InputError(
            f"is no file here, and cannot be loaded from the Hub: {_one_line(error)}", file=name
        ) from None
    yield from _dataset_rows(dataset)


def _only(splits: list[str], name: str) -> str:
    if len(splits) != 1:
        example = next(iter(splits), "train")
        raise InputError(
            f"has the splits {', '.join(map(str, splits))}; name one, as {name}:{example} (split= in Python)",
            file=name,
        )
    return splits[0]


def _pick_split(data: Any, split: str | None, name: str) -> Any:
    """The data set itself, or the one of a dictionary of splits."""
    if not isinstance(data, dict):
        return data
    if split is None:
        split = _only(list(data), name)
    elif split not in data:
        raise InputError(f"has no split {split!r}, only {', '.join(map(str, data))}", file=name)
    return data[split]


def _dataset_rows(dataset: Any) -> Rows:
    # whoever holds a data set has imported `datasets`; nobody else shall pay a second for it
    datasets = sys.modules.get("datasets")
    if datasets is None or not isinstance(dataset, (datasets.Dataset, datasets.IterableDataset)):
        raise InputError(
            f"traces are read from files, folders, Hub ids and data sets, not from {type(dataset).__name__}"
        )
    dataset = dataset.with_format(None)  # plain Python values, even where torch tensors are set
    for number, row in enumerate(dataset, start=1):
        yield number, _from_columns(row)


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


# Files


def rows_of(path: str | Path) -> Rows:
    """(line, object or the `InputError` of that line) of a JSON, JSON lines or Parquet file.

    Raises:
        InputError: there is no such file, or it cannot be read on.
    """
    if not os.path.isfile(path):
        raise InputError("no such file", file=str(path))
    yield from _file_rows(Path(path))


def _file_rows(path: Path) -> Rows:
    """Rows of one file. Its first bytes tell Parquet, gzip and JSON apart; only `.json` may hold one list."""
    try:
        with open(path, "rb") as handle:
            magic = handle.peek(4)[:4]
            if magic == b"PAR1" or path.suffix.lower() == ".parquet":
                yield from _parquet_rows(handle, path)
            elif magic[:2] == b"\x1f\x8b":
                with gzip.open(handle) as unzipped:
                    yield from _json_rows(unzipped, path.with_suffix(""))
            else:
                yield from _json_rows(handle, path)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"the gzip stream is cut or broken ({error}); fetch it again", file=str(path)
        ) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=str(path)) from None


def _json_rows(handle: Any, path: Path) -> Rows:
    if path.suffix.lower() != ".json":
        yield from _json_lines(handle)
        return
    data = handle.read().removeprefix(BOM)
    if _is_object(data.lstrip().split(b"\n", 1)[0]):  # JSON lines by another name
        yield from _json_lines(io.BytesIO(data))
    else:
        yield from _json_list(data, str(path))


def _is_object(raw: bytes) -> bool:
    try:
        return isinstance(parse_json(raw), dict)
    except InputError:
        return False


def _json_lines(handle: IO[bytes]) -> Rows:
    line = 0
    while raw := handle.readline(MAX_LINE_BYTES):
        line += 1
        if len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):
            while raw and not raw.endswith(b"\n"):
                raw = handle.readline(MAX_LINE_BYTES)
            yield line, InputError(f"the line is longer than {MAX_LINE_BYTES >> 20} MiB; is this JSON lines?")
            continue
        if line == 1:
            raw = raw.removeprefix(BOM)
        if not raw.strip():
            continue
        try:
            yield line, parse_json(raw)
        except InputError as error:
            yield line, error


def parse_json(raw: bytes) -> Any:
    """One JSON text, strictly.

    Raises:
        InputError: it is not UTF-8, not JSON, nested too deeply, or holds what is no text.
    """
    text = _decode(raw)
    try:
        value = _JSON.decode(text)
    except json.JSONDecodeError as error:
        cut = "" if raw.endswith(b"\n") else "; the file ends within this line: restore it or delete the line"
        raise InputError(f"not JSON: {error.msg} at column {error.colno}{cut}") from None
    except (RecursionError, ValueError) as error:
        raise _unreadable(error) from None
    _refuse_surrogates(text, value)
    return value


def _json_list(data: bytes, name: str) -> Rows:
    """The objects of a file that is one JSON list (or one object), each with the line on which it begins."""
    text = _decode(data, name)
    at = _skip_space(text, 0)
    if at == len(text):
        return
    in_list = text[at] == "["
    at = _skip_space(text, at + 1) if in_list else at
    line, counted = 1, 0
    while not (in_list and text[at : at + 1] == "]"):
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = _JSON.raw_decode(text, at)
            _refuse_surrogates(text[counted:at], value)
            yield line, value
        except json.JSONDecodeError as error:  # where the next row begins is unknown: no skipping here
            raise InputError(f"not JSON: {error.msg}", file=name, line=error.lineno) from None
        except InputError as error:
            if at == counted:
                raise InputError(str(error), file=name, line=line) from None
            yield line, error
        except (RecursionError, ValueError) as error:
            raise InputError(str(_unreadable(error)), file=name, line=line) from None
        at = _skip_space(text, at)
        if not in_list:
            break
        if text[at : at + 1] == ",":
            at = _skip_space(text, at + 1)
        elif text[at : at + 1] != "]":
            raise InputError(
                "not JSON: a comma or ] is missing after this object; is the file cut?",
                file=name,
                line=line + text.count("\n", counted, at),
            )
    if text[at + in_list :].strip():
        raise InputError(
            "not JSON: more text after the end; JSON lines hold one object a line", file=name, line=line
        )


def _skip_space(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\t", "\r", "\n"):
        at += 1
    return at


def _decode(raw: bytes, file: str | None = None) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        byte = error.start - raw.rfind(b"\n", 0, error.start)
        line = raw.count(b"\n", 0, error.start) + 1
        message = f"byte {byte} of the line is not UTF-8; save the file as UTF-8"
        raise InputError(message, file=file, line=line) from None


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


def no_key_twice(pairs: list[tuple[str, Any]]) -> Row:
    """The `object_pairs_hook` of everything that is read here: JSON lets the second of two keys win."""
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


_JSON = json.JSONDecoder(object_pairs_hook=no_key_twice, parse_constant=_constant, parse_float=_float)


def _parquet_rows(handle: IO[bytes], path: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(handle).iter_batches(batch_size=GROUP_SIZE):
            for row in batch.to_pylist():
                number += 1
                yield number, _from_columns(row)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"is not a whole Parquet file: {_one_line(error)}", file=str(path)) from None


def _from_columns(row: Row) -> Row | InputError:
    """A row of a table as JSON would have it: null columns are absent keys, `extra_json` is unpacked."""
    try:
        steps = row.get("steps")
        if isinstance(steps, list):
            row = row | {"steps": [_unpacked(step) if isinstance(step, dict) else step for step in steps]}
        return _unpacked(row)
    except InputError as error:
        return error


def _unpacked(row: Row) -> Row:
    row = {key: value for key, value in row.items() if value is not None}
    packed = row.pop("extra_json", None)
    if packed is None:
        return row
    extra = parse_json(packed.encode()) if isinstance(packed, str) else None
    if not isinstance(extra, dict):
        raise InputError("'extra_json' must be the unknown keys of the trace or step as a JSON object")
    return row | extra


# Writing


def write_traces(traces: Iterable[Trace], path: str | Path) -> int:
    """Write `traces` as JSONL, or as Parquet where `path` ends so; return their number.

    The old file stays as it is until all is written. NaN and infinities among unknown keys become null, and
    half surrogate pairs U+FFFD: what is written can be read anywhere.

    Raises:
        InputError: the file cannot be written there, or an unknown key holds what JSON cannot say.
    """
    name = str(path)
    if name.lower().endswith(".gz"):
        raise InputError("traces are written as .jsonl or .parquet, not compressed by gzip", file=name)
    if name.lower().endswith(".parquet"):
        with atomic_write(path, "wb") as handle:
            return _write_parquet(iter(traces), handle)
    n = 0
    with atomic_write(path) as handle:
        for trace in traces:
            handle.write(_dump(trace.to_dict()) + "\n")
            n += 1
    return n


def _write_parquet(traces: Iterator[Trace], handle: IO[bytes]) -> int:
    import pyarrow as pa
    import pyarrow.parquet

    text = pa.string()
    step = pa.struct(
        {"text": text, "label": pa.float64(), "sql": text, "error": text, "extra_json": text}.items()
    )
    columns = {"question": text, "steps": pa.list_(step)} | dict.fromkeys(TRACE_FIELDS, text)
    columns |= {"scores": pa.list_(pa.float64()), "extra_json": text}
    schema, n = pa.schema(columns.items()), 0
    with pyarrow.parquet.ParquetWriter(handle, schema) as writer:
        while group := [_to_columns(trace) for trace in islice(traces, GROUP_SIZE)]:
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            n += len(group)
    return n


def _to_columns(trace: Trace) -> Row:
    row = {name: getattr(trace, name) for name in TRACE_FIELDS} | {"question": trace.question}
    row = {key: _encodable(value) if isinstance(value, str) else value for key, value in row.items()}
    row["extra_json"] = _dump(trace.extra) if trace.extra else None
    row["steps"] = [_step_columns(step) for step in trace.steps]
    return row


def _step_columns(step: Step) -> Row:
    row: Row = {"text": step.text, "sql": step.sql, "error": step.error}
    row = {key: value if value is None else _encodable(value) for key, value in row.items()}
    return row | {"label": step.label, "extra_json": _dump(step.extra) if step.extra else None}


def _dump(value: Any) -> str:
    """JSON in one line."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    except (TypeError, ValueError):
        text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, default=_plain)
    return _encodable(text)


def _plain(value: Any) -> Any:
    """What the columns of a table may hold beyond JSON's own types."""
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, datetime.timedelta)):
        return str(value)
    raise InputError(
        f"an unknown key holds {type(value).__name__}, which JSON cannot say; drop or convert it"
    )


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # halves that stand side by side join, lone ones become U+FFFD
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w", *, part: str | None = None) -> Iterator[IO[Any]]:
    """Open a file that appears under `path` only once it is complete.

    It is written beside `path`, flushed to the disk and renamed; on an error, an interrupt or a full disk the
    old file stays and the half-written one is removed. Parent folders are made. Devices and pipes
    (`/dev/stdout`) are written directly. `mode` is `w` (UTF-8, `\\n`) or `wb`. `part` names
    the half-written file, for callers who let nobody else write `path`: what a killed run left of it
    is overwritten.

    Raises:
        InputError: `path` is a folder or cannot be written.
    """
    name = str(path)
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
    given = Path(path).expanduser()
    target = Path(os.path.realpath(given))  # through links: they stay links
    new = "x" if part is None else "w"
    unfinished = target.parent / (part or f".{secrets.token_hex(8)}.tmp")
    try:
        if given.is_dir():
            raise InputError("is a folder; name a file to write", file=name)
        if target.parent.is_file():
            raise InputError(f"{target.parent} is a file, not a folder to write in", file=name)
        stream = name.startswith(("/dev/std", "/dev/fd/")) or (given.exists() and not given.is_file())
        if stream:
            handle = open(given, mode, encoding=encoding, newline=newline)  # noqa: SIM115 (closed below)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle = open(  # noqa: SIM115 (closed below)
                unfinished, mode.replace("w", new), encoding=encoding, newline=newline
            )
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", file=name) from None
    if stream:
        with handle:
            yield handle
        return
    try:
        with handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        if target.exists():
            shutil.copymode(target, unfinished)
        os.replace(unfinished, target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
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


def convert(
    input: str | Path,
    output: str | Path,
    *,
    format: str,
    labels: str = "strict",
    on_bad_rows: str = "stop",
    split: str | None = None,
) -> int:
    """Read `input` in `format`, write it as native traces, say what was done, return the number of traces.

    `labels="prefix"` folds step-wise labels: after the first error every step is wrong.
    """
    tally = Tally()
    traces = counted_traces(input, tally, split=split, format=format, labels=labels, on_bad_rows=on_bad_rows)
    n = write_traces(_progress(traces), output)
    for line in tally.report():
        log.warning(line)
    print(f"wrote {n} traces from {tally.rows} rows to {output}", file=sys.stderr)
    return n


def _progress(traces: Iterator[Trace]) -> Iterator[Trace]:
    """Pass `traces` on, counting them on the terminal where there is one."""
    from rich.console import Console

    if not sys.stderr.isatty():
        yield from traces
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.completed:,.0f} traces"), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield from bar.track(traces)
