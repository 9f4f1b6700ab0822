"""Questions with gold SQL, as the data sets lay them out on disk.

Whatever is wrong with a file is said before any work starts, with the file, the entry or line, and the mend.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import quote as percent_quoted
from urllib.parse import urlsplit

from prm.errors import InputError
from prm.traces.formats import no_key_twice


@dataclass(frozen=True)
class Question:
    """One entry of a data set: `id` is unique in it (the `group` of its traces), `database` the SQLite file
    or the URL."""

    id: str
    question: str
    sql: str
    db_id: str
    database: Path | str
    evidence: str | None = None


def read_questions(
    layout: str, root: str | Path, split: str | None, database_url: str | None = None
) -> list[Question]:
    """The questions of a data set, in its own order.

    `layout`: "spider" (`train_spider.json` with `train_others.json`, or `<split>.json`;
    `database/<db>/<db>.sqlite`, `test_database/` for test), "bird" (`<split>.json` with `evidence` and
    `SQL`, `<split>_databases/`, in `root` or a folder `<split>…` of it), "table" (`root` is a JSONL or CSV
    file with question, sql and database, a path relative to the file; id and evidence if you have them).
    With `database_url` the files of the databases are not looked for, and a table may go without them.

    Raises:
        InputError: naming the file and entry or line, and the mend.
    """
    root = Path(root)
    if layout == "table":
        questions = _read_table(root, database_url)
    elif layout in ("spider", "bird"):
        if not split:
            raise InputError(f"--layout {layout} needs --split (train, dev, test …)")
        if not root.is_dir():
            raise InputError("no such folder; --root is the folder of the data set", file=str(root))
        questions = (_read_spider if layout == "spider" else _read_bird)(root, split, database_url)
    else:
        raise InputError(f"unknown layout {layout!r}; there are spider, bird and table")
    if not questions:
        raise InputError("holds no questions", file=str(root))
    return questions


def _read_spider(root: Path, split: str, database_url: str | None) -> list[Question]:
    files = [root / f"{split}.json"]
    if split == "train" and not files[0].exists():
        files = [f for f in (root / "train_spider.json", root / "train_others.json") if f.exists()]
    if not files or not files[0].exists():
        wanted = "train.json or train_spider.json" if split == "train" else f"{split}.json"
        raise InputError(f"has no {wanted}; --root is the folder that holds it", file=str(root))
    folders = [root / "database", root / "test_database"]
    if split == "test":
        folders.reverse()
    return _read_entries(files, folders, split, "query", database_url)


def _read_bird(root: Path, split: str, database_url: str | None) -> list[Question]:
    name = f"{split}.json"
    homes = [root, root / split, *sorted(root.glob(f"{split}_*"))]
    home = next((home for home in homes if (home / name).is_file()), None)
    if home is None:
        raise InputError(
            f"has no {name}, nor has a folder {split} in it; --root is BIRD's folder", file=str(root)
        )
    return _read_entries([home / name], [home / f"{split}_databases"], split, "SQL", database_url)


def _read_entries(
    files: list[Path], folders: list[Path], split: str, sql_key: str, database_url: str | None
) -> list[Question]:
    questions: list[Question] = []
    databases: dict[str, Path | str] = {}
    for file in files:
        entries = _read_json(file)
        if not isinstance(entries, list):
            raise InputError("must hold a list of questions", file=str(file))
        for i, entry in enumerate(entries):
            where = f"entry {i} (from 0)"
            if not isinstance(entry, dict):
                raise InputError(
                    f"{where} must be an object with 'db_id', 'question' and '{sql_key}'", file=str(file)
                )
            db_id, question, sql = (
                _text_of(entry, key, where, file) for key in ("db_id", "question", sql_key)
            )
            if db_id not in databases:
                databases[db_id] = (
                    _find_database(db_id, folders, where, file)
                    if database_url is None
                    else _database_at(database_url, db_id, f"{where}: ", file)
                )
            evidence = entry.get("evidence")
            if evidence is not None and not isinstance(evidence, str):
                raise InputError(f"{where}: 'evidence' must be a text", file=str(file))
            questions.append(
                Question(
                    f"{split}-{len(questions)}", question, sql, db_id, databases[db_id], evidence or None
                )
            )
    return questions


def _find_database(db_id: str, folders: list[Path], where: str, file: Path) -> Path:
    if not _is_name(db_id):
        raise InputError(f"{where}: 'db_id' must be the name of a folder, not {db_id!r}", file=str(file))
    for folder in folders:
        path = folder / db_id / f"{db_id}.sqlite"
        if path.is_file():
            return path
    raise InputError(
        f"{where} asks database {db_id!r}, but there is no {folders[0] / db_id / db_id}.sqlite; "
        "fetch the data set's databases, too",
        file=str(file),
    )


def _database_at(database_url: str, db_id: str, where: str, file: Path, line: int | None = None) -> str:
    found = database_at(database_url, db_id)
    if found is None:
        raise InputError(
            f"{where}{db_id[:80]!r} is no name of a database; --database-url wants one for {{db_id}}",
            file=str(file),
            line=line,
        )
    return found


def _read_table(file: Path, database_url: str | None) -> list[Question]:
    questions: list[Question] = []
    lines: dict[str, int] = {}
    needed = ["question", "sql", "database"]
    if database_url is not None and "{db_id}" not in database_url:
        needed.remove("database")
    for line, row in _rows_of(file, needed):
        question, sql = (_text_of(row, key, "", file, line) for key in needed[:2])
        path = _text_of(row, "database", "", file, line) if "database" in needed else ""
        optional: list[str | None] = []
        for key in ("id", "evidence"):
            value = row.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and key == "id":
                value = str(value)
            if value is not None and not isinstance(value, str):
                raise InputError(f"'{key}' must be a text", file=str(file), line=line)
            optional.append(value or None)
        given, evidence = optional
        beside = file.parent / path
        database: Path | str = beside
        db_id = Path(path).stem
        if database_url is not None:
            database = _database_at(database_url, db_id, "", file, line)
            db_id = db_id or Path(urlsplit(database).path).stem
        elif not beside.is_file():
            raise InputError(
                f"there is no database {beside}; 'database' is a path relative to this file",
                file=str(file),
                line=line,
            )
        name = given or f"{file.stem}-{len(questions)}"
        if name in lines:
            raise InputError(
                f"the id {name!r} also stands in line {lines[name]}; make it unique",
                file=str(file),
                line=line,
            )
        lines[name] = line
        questions.append(Question(name, question, sql, db_id, database, evidence))
    return questions


def _rows_of(file: Path, needed: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line from 1, row) of a JSONL or CSV file."""
    if not file.is_file():
        raise InputError("no such file; --layout table wants a JSONL or CSV file as --root", file=str(file))
    if file.suffix.lower() == ".csv":
        line = 1
        try:
            with open(file, encoding="utf-8-sig", newline="") as stream:
                reader = csv.DictReader(stream, strict=True)
                names = list(reader.fieldnames or ())
                missing = set(needed) - set(names)
                twice = [name for name in dict.fromkeys(names) if name and names.count(name) > 1]
                if twice:  # the second would win without a word
                    raise InputError(
                        f"the first line names the column {twice[0]!r} twice; keep one",
                        file=str(file),
                        line=1,
                    )
                if missing:
                    raise InputError(
                        f"the first line must name the column {sorted(missing)[0]!r}", file=str(file), line=1
                    )
                line = reader.line_num + 1
                for row in reader:
                    if None in row:
                        raise InputError(
                            "has more cells than the first line names", file=str(file), line=line
                        )
                    yield line, {key: value for key, value in row.items() if value}
                    line = reader.line_num + 1
        except (UnicodeDecodeError, csv.Error) as error:
            message = f"from here on no readable CSV ({error}); close every quote, and save it as UTF-8"
            raise InputError(message, file=str(file), line=line) from None
        return
    with open(file, "rb") as stream:
        for line, raw in enumerate(stream, 1):
            if not raw.strip():
                continue
            try:
                row = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=no_key_twice)
            except InputError as error:
                raise InputError(str(error), file=str(file), line=line) from None
            except (UnicodeDecodeError, ValueError, RecursionError) as error:
                raise InputError(
                    f"no JSON object ({error}); one object a line", file=str(file), line=line
                ) from None
            if not isinstance(row, dict):
                raise InputError("no JSON object; one object a line", file=str(file), line=line)
            yield line, row


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes().decode("utf-8-sig"), object_pairs_hook=no_key_twice)
    except InputError as error:
        raise InputError(str(error), file=str(file)) from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"no valid JSON ({error.msg}); fetch it again", file=str(file), line=error.lineno
        ) from None
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InputError(f"no valid JSON ({error}); fetch it again", file=str(file)) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=str(file)) from None


def _text_of(entry: dict[str, Any], key: str, where: str, file: Path, line: int | None = None) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InputError(
            f"{where}{': ' if where else ''}'{key}' must be a non-empty text", file=str(file), line=line
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{where}{': ' if where else ''}'{key}' holds half a character (a lone surrogate such as "
            "\\ud800); write it as UTF-8",
            file=str(file),
            line=line,
        ) from None
    return value


# --- databases by their names -------------------------------------------------------------------------------


def locate_database(root: str | Path, db_id: str | None) -> Path | None:
    """The SQLite file of a database below a data set's folder, None where there is none: `<db>/<db>.sqlite`
    (or .db), or `<db>.sqlite`, in `root` itself, in Spider's `database/` and `test_database/`, or in BIRD's
    `dev_databases/`, which may lie one folder deeper.
    """
    if not _is_name(db_id):
        return None
    for folder in _database_folders(Path(root)):
        for suffix in (".sqlite", ".db", ".sqlite3"):
            for path in (folder / db_id / f"{db_id}{suffix}", folder / f"{db_id}{suffix}"):
                if path.is_file():
                    return path
    return None


def database_at(database_url: str, db_id: str | None) -> str | None:
    """The URL of a database by its name, which takes the place of `{db_id}`; None where it is no name and
    one is needed."""
    if "{db_id}" not in database_url:
        return database_url
    return database_url.replace("{db_id}", percent_quoted(db_id, safe="")) if _is_name(db_id) else None


def _is_name(db_id: str | None) -> TypeGuard[str]:
    """Whether it can be the name of a file or a database, and leads nowhere else."""
    if not db_id:
        return False
    return db_id not in (".", "..") and not set(db_id) & set("/\\\0")


def _database_folders(root: Path) -> Iterator[Path]:
    yield from (root, root / "database", root / "test_database")
    for pattern in ("*_databases", "*/*_databases"):  # looked for only where the others do not hold it
        yield from sorted(root.glob(pattern))


def find_database(root: str | Path, db_id: str) -> Path:
    """`locate_database`, where the database has to be there.

    Raises:
        InputError: it is not, or `db_id` is no name.
    """
    path = locate_database(root, db_id)
    if path is None:
        raise InputError(
            f"there is no database {db_id[:80]!r} in {root}: neither {db_id[:80]}/{db_id[:80]}.sqlite nor "
            "in database/ or *_databases/; --databases is the data set's folder"
        )
    return path
