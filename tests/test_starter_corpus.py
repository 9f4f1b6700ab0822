"""What the starter corpus promises: databases that tell near-misses apart, and splits that share nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from itertools import combinations
from pathlib import Path

import pytest
import sqlglot

STARTER = Path(__file__).resolve().parents[1] / "examples" / "starter"
SPLITS = [name for name in ("train", "dev", "test") if (STARTER / f"{name}.json").is_file()]
DATABASES = sorted(path.name for path in (STARTER / "database").iterdir() if path.is_dir())
ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def run_make(script: Path, *arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """The corpus as `make.py` builds it: a Spider folder."""
    output = tmp_path_factory.mktemp("starter")
    finished = run_make(STARTER / "make.py", "--output", str(output))
    assert finished.returncode == 0, finished.stderr
    return output


def connect(corpus: Path, db_id: str) -> closing[sqlite3.Connection]:
    path = corpus / "database" / db_id / f"{db_id}.sqlite"
    return closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True))


def table_columns(connection: sqlite3.Connection) -> dict[str, list[tuple]]:
    """Each table's `PRAGMA table_info` rows: (number, name, type, not null, default, place in the key)."""
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return {name: connection.execute(f'PRAGMA table_info("{name}")').fetchall() for (name,) in names}


def questions(split: str) -> list[dict[str, str]]:
    return json.loads((STARTER / f"{split}.json").read_text(encoding="utf-8"))


def golds() -> list[tuple[str, str, str]]:
    return [
        (entry["db_id"], entry["question"], entry["query"]) for split in SPLITS for entry in questions(split)
    ]


# ------------------------------------------------------------------------------------------------ building it


def fingerprints(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_run_gives_the_same_bytes_and_another_seed_gives_others(corpus, tmp_path):
    assert run_make(STARTER / "make.py", "--output", str(tmp_path / "again"), hash_seed="7").returncode == 0
    assert fingerprints(tmp_path / "again") == fingerprints(corpus)

    assert run_make(STARTER / "make.py", "--output", str(tmp_path / "other"), "--seed", "1").returncode == 0
    other, first = fingerprints(tmp_path / "other"), fingerprints(corpus)
    assert other.keys() == first.keys()
    changed = {name for name in first if other[name] != first[name]}
    assert changed == {name for name in first if name.endswith(".sqlite")}


def test_a_spider_folder_and_nothing_else_comes_out(corpus):
    expected = {f"database/{db_id}/{db_id}.sqlite" for db_id in DATABASES} | {
        f"{split}.json" for split in SPLITS
    }
    assert set(fingerprints(corpus)) == expected | {"tables.json"}


TINY_SCHEMA = """
CREATE TABLE Maker (maker_id INTEGER PRIMARY KEY, full_name TEXT);
CREATE TABLE clock (maker_id INTEGER REFERENCES Maker (maker_id), serial INT, made_on DATE, price REAL,
                    works BOOLEAN, picture BLOB, PRIMARY KEY (serial, maker_id));
"""
TINY_ROWS = """
def rows(rng):
    return {"Maker": [(1, "Ann"), (2, None)], "clock": [(MAKER, 7, "1900-01-01", 2.5, True, None)]}
"""


@pytest.fixture
def tiny(tmp_path) -> Path:
    """A copy of `make.py` beside one small database, `shop`."""
    source = tmp_path / "database" / "shop"
    source.mkdir(parents=True)
    shutil.copyfile(STARTER / "make.py", tmp_path / "make.py")
    (source / "schema.sql").write_text(TINY_SCHEMA)
    (source / "rows.py").write_text(TINY_ROWS.replace("MAKER", "2"))
    return tmp_path


def test_tables_json_follows_spiders_conventions(tiny):
    assert run_make(tiny / "make.py").returncode == 0
    assert json.loads((tiny / "tables.json").read_text()) == [
        {
            "db_id": "shop",
            "table_names_original": ["Maker", "clock"],
            "table_names": ["maker", "clock"],
            "column_names_original": [
                [-1, "*"],
                [0, "maker_id"],
                [0, "full_name"],
                [1, "maker_id"],
                [1, "serial"],
                [1, "made_on"],
                [1, "price"],
                [1, "works"],
                [1, "picture"],
            ],
            "column_names": [
                [-1, "*"],
                [0, "maker id"],
                [0, "full name"],
                [1, "maker id"],
                [1, "serial"],
                [1, "made on"],
                [1, "price"],
                [1, "works"],
                [1, "picture"],
            ],
            "column_types": [
                "text",
                "number",
                "text",
                "number",
                "number",
                "time",
                "number",
                "boolean",
                "others",
            ],
            "primary_keys": [1, 4, 3],
            "foreign_keys": [[3, 1]],
        }
    ]


@pytest.mark.parametrize(
    ("file", "old", "new", "complaint"),
    [
        ("rows.py", "(2, 7", "(3, 7", "shop: table clock refuses a row of rows.py: FOREIGN KEY"),
        ("rows.py", "2.5, True, None", "2.5, True", "shop: table clock refuses a row of rows.py"),
        (
            "rows.py",
            '"clock": [',
            '"watch": [',
            "shop: rows.py and schema.sql name different tables: clock, watch",
        ),
        ("rows.py", '[(1, "Ann"), (2, None)]', "[]", "shop: rows.py gives no rows for table Maker"),
        ("schema.sql", "DATE,", "DATE,,", "shop: schema.sql does not run"),
        (
            "schema.sql",
            "Maker (maker_id)",
            "Maker",
            "shop: write REFERENCES Maker (column) for clock.maker_id",
        ),
    ],
)
def test_a_bad_source_stops_the_build_and_leaves_the_old_database(tiny, file, old, new, complaint):
    assert run_make(tiny / "make.py").returncode == 0
    before = fingerprints(tiny)
    source = tiny / "database" / "shop" / file
    text = source.read_text()
    assert old in text
    source.write_text(text.replace(old, new))

    finished = run_make(tiny / "make.py")
    assert finished.returncode == 2
    assert complaint in finished.stderr and finished.stderr.count("\n") == 1
    after = fingerprints(tiny)
    assert {name for name in after if after[name] != before.get(name)} == {f"database/shop/{file}"}


# ---------------------------------------------------------------------------------------------- the databases


@pytest.mark.parametrize("db_id", DATABASES)
def test_tables_and_rows(corpus, db_id):
    with connect(corpus, db_id) as connection:
        tables = table_columns(connection)
        assert 3 <= len(tables) <= 8
        for table, columns in tables.items():
            assert any(place for *_, place in columns), f"{table} has no primary key"
            assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for _, name, *_ in columns)
            assert all(declared for _, _, declared, *_ in columns), f"{table} has a column without type"
            (count,) = connection.execute(f'SELECT COUNT(*) FROM "{table}"').fetchone()
            assert 50 <= count <= 500, f"{table} has {count} rows"
        keys = [connection.execute(f'PRAGMA foreign_key_list("{table}")').fetchall() for table in tables]
        assert sum(map(len, keys)) >= 2
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


@pytest.mark.parametrize("db_id", DATABASES)
def test_values_that_tell_near_misses_apart(corpus, db_id):
    """NULLs, dates, repeated texts, ties between numbers, pairs of columns that agree in some rows only."""
    has_null = has_date = has_duplicate = has_tie = has_near_miss = False
    with connect(corpus, db_id) as connection:
        for table, columns in table_columns(connection).items():
            foreign = {row[3] for row in connection.execute(f'PRAGMA foreign_key_list("{table}")')}
            content = {}
            for _, name, *_, place in columns:
                values = [value for (value,) in connection.execute(f'SELECT "{name}" FROM "{table}"')]
                has_null |= None in values
                if not place and name not in foreign:
                    content[name] = values
            for values in content.values():
                known = [value for value in values if value is not None]
                repeated = len(set(known)) < len(known)
                has_date |= all(isinstance(v, str) and ISO_DATE.fullmatch(v) for v in known)
                has_duplicate |= repeated and all(isinstance(v, str) for v in known)
                has_tie |= repeated and all(isinstance(v, int | float) for v in known) and len(set(known)) > 2
            for left, right in combinations(content.values(), 2):
                pairs = [pair for pair in zip(left, right, strict=True) if None not in pair]
                same = sum(a == b for a, b in pairs)
                has_near_miss |= 0 < same < len(pairs)
    assert has_null and has_date and has_duplicate and has_tie and has_near_miss


# ---------------------------------------------------------------------------------------------- the questions


@pytest.mark.parametrize("split", SPLITS)
def test_entries_are_spiders(split):
    for entry in questions(split):
        assert set(entry) == {"db_id", "question", "query"}
        assert all(isinstance(value, str) and value == value.strip() != "" for value in entry.values())
        assert "\n" not in entry["question"] and not entry["query"].endswith(";")


def test_every_database_belongs_to_one_split():
    owners = Counter(db_id for split in SPLITS for db_id in {entry["db_id"] for entry in questions(split)})
    assert set(owners) == set(DATABASES)
    assert set(owners.values()) == {1}


def test_every_gold_runs_and_gives_a_value(corpus):
    silent = []
    for db_id, _, query in golds():
        with connect(corpus, db_id) as connection:
            rows = connection.execute(query).fetchall()
        if not any(value is not None for row in rows for value in row):
            silent.append((db_id, query))
    assert silent == []


def test_no_question_or_query_stands_twice():
    for place in (1, 2):
        counts = Counter((gold[0], gold[place].lower()) for gold in golds())
        assert [entry for entry, count in counts.items() if count > 1] == []


def skeleton(sql: str) -> str:
    """The query with every identifier (qualified or not) masked as `_` and every literal as `?`."""
    tokens = []
    for token in sqlglot.tokenize(sql, read="sqlite"):
        kind = token.token_type.name
        tokens.append(
            "_"
            if kind in ("VAR", "IDENTIFIER")
            else "?"
            if kind in ("STRING", "NUMBER")
            else token.text.upper()
        )
    return " ".join(tokens).replace("_ . _", "_")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("SELECT a FROM t WHERE b = 'x'", "select t.c FROM u WHERE d = 4", True),
        ("SELECT a FROM t WHERE b = 'x'", "SELECT a FROM t WHERE b > 'x'", False),
        ("SELECT a FROM t ORDER BY b LIMIT 3", "SELECT a FROM t ORDER BY b DESC LIMIT 3", False),
        ("SELECT a, b FROM t", "SELECT a FROM t", False),
    ],
)
def test_what_counts_as_one_skeleton(one, other, same):
    assert (skeleton(one) == skeleton(other)) is same


@pytest.mark.parametrize("db_id", DATABASES)
def test_at_least_25_questions_with_60_percent_different_skeletons(db_id):
    skeletons = [skeleton(query) for owner, _, query in golds() if owner == db_id]
    assert len(skeletons) >= 25
    assert len(set(skeletons)) >= 0.6 * len(skeletons)


# ------------------------------------------------------------------ no sentence pattern shared between splits

# Words that hold a sentence together stay even where they occur in a name or a value ("date of birth").
FUNCTION_WORDS = """
    a about after all an and any are as at be before by did do does each every for from had has have how
    i if in is it its many me more most much no not of on one only or our out over than that the their
    them there these they to up us was we were what when where which who whose with without
"""
NUMBER_WORDS = "zero two three four five six seven eight nine ten eleven twelve"
SENTENCE_END = re.compile(r"(?<=[.?!])\s+")


def stem(word: str) -> str:
    """A stump that a word shares with its plural: house(s), bus(es), city and cities. More it need not be."""
    stump = word.rstrip("es")
    return stump[:-1] + "i" if stump.endswith("y") else stump


def pattern(question: str, names: set[str]) -> str:
    """The question in lower case with quoted text, numbers, dates, names and `names` (stems) as a slot `_`.

    Neighbouring slots melt into one, so that "first name" and "name" give one pattern.
    """
    question = re.sub(r"'[^']*'(?!\w)|\"[^\"]*\"|“[^”]*”|‘[^’]*’(?!\w)", " 0 ", question)
    masked = []
    for sentence in SENTENCE_END.split(question):
        for place, word in enumerate(re.findall(r"[^\W_]+(?:[-'’_.,][^\W_]+)*", sentence)):
            lower = word.lower()
            parts = [stem(part) for part in re.split(r"[-'’_]", lower)]
            is_name = place > 0 and word[0].isupper() and lower not in FUNCTION_WORDS.split()
            is_number = any(c.isdigit() for c in word) or lower in NUMBER_WORDS.split()
            slot = (
                is_name
                or is_number
                or (lower not in FUNCTION_WORDS.split() and any(part in names for part in parts))
            )
            if not (slot and masked[-1:] == ["_"]):
                masked.append("_" if slot else lower)
    return " ".join(masked)


def stems(texts: Iterable[str]) -> set[str]:
    return {stem(word) for text in texts for word in re.findall(r"[^\W\d_]{2,}", text.lower())}


def schema_and_value_words(corpus: Path) -> dict[str, set[str]]:
    """For each database the stems of its text values and of the table and column names of all databases.

    Of all databases, for what one schema calls a name is a name: the pattern shall not depend on who asks.
    """
    names, values = set(), {}
    for db_id in DATABASES:
        texts = set()
        with connect(corpus, db_id) as connection:
            for table, columns in table_columns(connection).items():
                names |= {db_id, table, *(name for _, name, *_ in columns)}
                for _, name, *_ in columns:
                    found = connection.execute(f'SELECT DISTINCT "{name}" FROM "{table}"')
                    texts |= {value for (value,) in found if isinstance(value, str)}
        values[db_id] = stems(texts)
    return {db_id: words | stems(names) for db_id, words in values.items()}


@pytest.mark.parametrize(
    ("one", "other"),
    [("house", "houses"), ("bus", "buses"), ("city", "cities"), ("day", "days"), ("class", "classes")],
)
def test_a_name_and_its_plural_have_one_stem(one, other):
    assert stem(one) == stem(other)
    assert stem(one) != stem("station")


@pytest.mark.parametrize(
    ("question", "masked"),
    [
        ("How many singers are there?", "how many _ are there"),
        ("How many cities are there?", "how many _ are there"),
        ("List the names of all singers older than 30.", "list the _ of all _ older than _"),
        ("List the name of all cities older than 1,200.", "list the _ of all _ older than _"),
        ("Which songs did Joe Sharp sing after 2014-05-01?", "which songs did _ sing after _"),
        ("Which songs did 'the band' sing after 12.5?", "which songs did _ sing after _"),
        ("Show the singer's first_name and five songs.", "show the _ and _ songs"),
        ("Singers from France. Which city do they love?", "_ from _ which _ do they love"),
        ("Which one do they love?", "which one do they love"),
    ],
)
def test_what_counts_as_one_pattern(question, masked):
    assert pattern(question, stems(["singer", "city", "first_name"])) == masked


def test_no_pattern_is_shared_between_splits(corpus):
    """Whole questions, and also each sentence of a question that has four words or more beside its slots."""
    words = schema_and_value_words(corpus)
    where: dict[str, dict[str, str]] = {}
    for split in SPLITS:
        for entry in questions(split):
            text, names = entry["question"], words[entry["db_id"]]
            sentences = [pattern(sentence, names) for sentence in SENTENCE_END.split(text)]
            kept = {one for one in sentences if len(one.replace("_", "").split()) >= 4}
            for one in kept | {pattern(text, names)}:
                where.setdefault(one, {})[split] = text
    assert {one: texts for one, texts in where.items() if len(texts) > 1} == {}


def test_the_corpus_is_complete():
    assert SPLITS == ["train", "dev", "test"]
    assert len(DATABASES) >= 8
