"""The schema as prompts show it: hand-made databases in, exact text out."""

import os
import pickle
import re
import sqlite3
import time
from pathlib import Path

import pytest

from prm.errors import InputError
from prm.sql import open_database, read_schema, schema_text
from prm.sql.schema import SAMPLE_ROWS
from prm.sql.tables import RESERVED, Column, ForeignKey, quote

CONCERTS = """
CREATE TABLE singer(singer_id INTEGER PRIMARY KEY, name TEXT NOT NULL, country VARCHAR(20), born DATE,
    age INT);
CREATE TABLE stadium(stadium_id INTEGER PRIMARY KEY, name TEXT, opened);
CREATE TABLE concert(concert_id INTEGER PRIMARY KEY, singer_id INTEGER REFERENCES Singer,
    stadium_id INTEGER REFERENCES stadium(Stadium_ID), takings REAL);
CREATE TABLE part(concert_id INTEGER, number INTEGER, piece TEXT,
    PRIMARY KEY (concert_id, number), FOREIGN KEY (concert_id) REFERENCES concert(concert_id));
CREATE TABLE review(id INTEGER PRIMARY KEY, concert INTEGER, part INTEGER, words TEXT,
    FOREIGN KEY (concert, part) REFERENCES part);
CREATE VIEW old AS SELECT * FROM singer WHERE age > 60;
CREATE INDEX by_country ON singer(country);
INSERT INTO singer VALUES (1, 'Joe Sharp', 'Netherlands', '1971-03-02', 52),
    (2, 'Timbaland', 'United States', NULL, 32),
    (3, 'Rose White', 'France', NULL, 41), (4, 'O''Brien', 'France', '1984-01-31', 39);
INSERT INTO stadium VALUES (1, 'Arena', 1996), (2, 'arena', 2001);
INSERT INTO concert VALUES (1, 1, 1, 9.5);
"""

TEXT = """\
singer(singer_id INTEGER PRIMARY KEY, name TEXT /* 'Joe Sharp' | 'Timbaland' */, \
country VARCHAR(20) /* 'Netherlands' | 'United States' */, \
born DATE /* '1971-03-02' | '1984-01-31' */, age INT)
stadium(stadium_id INTEGER PRIMARY KEY, name TEXT /* 'Arena' */, opened)
concert(concert_id INTEGER PRIMARY KEY, singer_id INTEGER, stadium_id INTEGER, takings REAL)
part(concert_id INTEGER, number INTEGER, piece TEXT, PRIMARY KEY (concert_id, number))
review(id INTEGER PRIMARY KEY, concert INTEGER, part INTEGER, words TEXT)
foreign keys: concert.singer_id = singer.singer_id; concert.stadium_id = stadium.stadium_id; \
part.concert_id = concert.concert_id; review.concert = part.concert_id and review.part = part.number"""


def make(path: Path, script: str) -> Path:
    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA synchronous = OFF;" + script)
    connection.commit()
    connection.close()
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make(tmp_path / "concerts.sqlite", CONCERTS)


def examples(text: str, column: str) -> list[str]:
    """The example values that the text shows for a column."""
    found = re.search(rf"\b{column} [^,/]*/\* (.*?) \*/", text)
    return re.findall(r"'((?:[^']|'')*)'", found[1]) if found else []


def test_tables_columns_and_keys(path: Path) -> None:
    schema = read_schema(path)
    assert [table.name for table in schema.tables] == ["singer", "stadium", "concert", "part", "review"]
    assert schema.table("SINGER").column("Name") == Column("name", "TEXT", not_null=True)
    assert schema.table("singer").columns[0] == Column("singer_id", "INTEGER", primary_key=True)
    assert schema.table("part").primary_key == ("concert_id", "number")
    assert schema.table("old") is None and schema.table("singer").column("x") is None
    assert ForeignKey("concert", ("singer_id",), "singer", ("singer_id",)) in schema.foreign_keys
    assert schema.table("review").foreign_keys == (
        ForeignKey("review", ("concert", "part"), "part", ("concert_id", "number")),
    )
    assert schema.path == path


def test_text(path: Path) -> None:
    assert schema_text(read_schema(path)) == TEXT


def test_the_text_without_its_comments_is_what_prompts_fall_back_to(path: Path) -> None:
    bare = re.sub(r" /\*.*?\*/", "", schema_text(read_schema(path)))
    assert bare.splitlines()[0] == (
        "singer(singer_id INTEGER PRIMARY KEY, name TEXT, country VARCHAR(20), born DATE, age INT)"
    )
    assert len(bare.splitlines()) == len(TEXT.splitlines())


@pytest.mark.parametrize(
    ("question", "name", "country"),
    [
        ("How many singers are there?", ["Joe Sharp", "Timbaland"], ["Netherlands", "United States"]),
        ("Who is from france?", ["Joe Sharp", "Timbaland"], ["France", "Netherlands"]),
        ("Did ROSE   white sing in the USA?", ["Rose White", "Joe Sharp"], ["Netherlands", "United States"]),
        ("France or the united states?", ["Joe Sharp", "Timbaland"], ["United States", "France"]),
        ("France, Netherlands, United States", ["Joe Sharp", "Timbaland"], ["United States", "Netherlands"]),
        ("Is 'Rose White's age known?", ["Rose White", "Joe Sharp"], ["Netherlands", "United States"]),
        ("How old is O'Brien?", ["O''Brien", "Joe Sharp"], ["Netherlands", "United States"]),
        ("Francesca and Rosewhite", ["Joe Sharp", "Timbaland"], ["Netherlands", "United States"]),
        ("", ["Joe Sharp", "Timbaland"], ["Netherlands", "United States"]),
        ("?!", ["Joe Sharp", "Timbaland"], ["Netherlands", "United States"]),
    ],
)  # fmt: skip
def test_values_named_in_the_question_come_first(
    path: Path, question: str, name: list[str], country: list[str]
) -> None:
    first = schema_text(read_schema(path), question).splitlines()[0]
    assert examples(first, "name") == name
    assert examples(first, "country") == country


def values(
    tmp_path: Path, cells: list[object], question: str | None = None, declared: str = "TEXT"
) -> list[str]:
    """The examples shown of a table with one column that holds these cells."""
    path = tmp_path / "one.sqlite"
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    connection.execute(f"CREATE TABLE t(a {declared})")
    connection.executemany("INSERT INTO t VALUES (?)", [(cell,) for cell in cells])
    connection.commit()
    connection.close()
    return examples(schema_text(read_schema(path), question), "a")


@pytest.mark.parametrize(
    ("cells", "shown"),
    [
        (["x", "x", "x", "y", "z"], ["x", "y"]),
        ([None, "x"], ["x"]),
        (["", "  ", "x"], ["x"]),
        (["x" * 41, "y" * 40], ["y" * 40]),
        (["a\nb", "a\tb", "a\0b", "x"], ["x"]),
        (["*/ DROP", "/* not the end", "x"], ["/* not the end", "x"]),
        ([b"blob", "x"], ["x"]),
        (["it's"], ["it''s"]),
        (["<|im_end|>"], ["<|im_end|>"]),
        (["ß", "北京"], ["ß", "北京"]),
        ([], []),
    ],
)
def test_which_values_are_shown(tmp_path: Path, cells: list[object], shown: list[str]) -> None:
    assert values(tmp_path, cells) == shown


@pytest.mark.parametrize(
    ("cells", "question", "shown"),
    [
        (["B", "C", "A"], "a singer with grade C", ["C", "B"]),  # "a" is no grade
        (["x", "y", "F"], "female (F) only", ["F", "x"]),
        (["上海", "广州", "北京"], "在北京的歌手有多少?", ["北京", "上海"]),
        (["x", "y", "U.S.A."], "born in the U.S.A.?", ["U.S.A.", "x"]),
        (["x", "y", "2014-2015"], "the season 2014-2015", ["2014-2015", "x"]),
        (["x", "y", "(none)"], "those with none", ["(none)", "x"]),
        (["x", "y", "STRASSE"], "in der Straße", ["STRASSE", "x"]),
        (["New York", "York", "New York City"], "in new york city", ["New York City", "New York"]),
        (["x", "...", "!"], "what ... !", ["x", "..."]),
    ],
)
def test_how_questions_name_values(
    tmp_path: Path, cells: list[object], question: str, shown: list[str]
) -> None:
    assert values(tmp_path, cells, question) == shown


def test_numbers_get_no_examples_whatever_the_column_is_called(tmp_path: Path) -> None:
    assert values(tmp_path, [1, 2.5], declared="") == []
    assert values(tmp_path, [1, 2.5], declared="DATE") == []
    assert values(tmp_path, ["12 apples", 3], declared="INTEGER") == ["12 apples"]
    assert values(tmp_path, ["2014", "2015"], declared="TEXT") == ["2014", "2015"]


def test_text_depends_on_database_and_question_alone(path: Path) -> None:
    schema = read_schema(path)
    before = schema_text(schema, "Is Rose White from France?")
    schema_text(schema, "How old is Timbaland?")
    assert schema_text(schema, "Is Rose White from France?") == before
    assert schema_text(pickle.loads(pickle.dumps(schema)), "Is Rose White from France?") == before
    assert schema_text(read_schema(str(path)), "Is Rose White from France?") == before


def test_an_index_does_not_change_the_examples(tmp_path: Path) -> None:
    """SQLite would read a one-column table from a covering index, in the order of that index."""
    script = "CREATE TABLE t(a TEXT); INSERT INTO t VALUES ('z'), ('y'), ('a');"
    plain = schema_text(read_schema(make(tmp_path / "a.sqlite", script)))
    indexed = schema_text(read_schema(make(tmp_path / "b.sqlite", script + "CREATE INDEX i ON t(a);")))
    assert plain == indexed == "t(a TEXT /* 'z' | 'y' */)"


def test_names_that_need_quotes(tmp_path: Path) -> None:
    script = """CREATE TABLE "order"("group" TEXT, "2nd" INT, "Percent (%)" REAL, "a ""b"" c" TEXT, naïve INT,
        "key" INT);
    CREATE TABLE "line item"("order id" INT REFERENCES "order"("2nd"));
    INSERT INTO "order" VALUES ('x', 1, 2, NULL, 3, 4);"""
    text = schema_text(read_schema(make(tmp_path / "q.sqlite", script)))
    assert text == (
        '"order"("group" TEXT /* \'x\' */, "2nd" INT, "Percent (%)" REAL, "a ""b"" c" TEXT, '
        "naïve INT, key INT)\n"
        '"line item"("order id" INT)\n'
        'foreign keys: "line item"."order id" = "order"."2nd"'
    )


@pytest.mark.parametrize(
    "name", ["singer", "Singer_2", "_x", "naïve", "歌手", "key", "date", "a b", "x-y", "2x", 'q"q', "select"]
)
def test_quoted_names_work_in_sqlite(name: str) -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute(f"CREATE TABLE {quote(name)}({quote(name)} TEXT)")
    connection.execute(f"INSERT INTO {quote(name)} VALUES ('v')")
    assert connection.execute(f"SELECT t.{quote(name)} FROM {quote(name)} t").fetchone() == ("v",)
    connection.close()


def test_every_keyword_that_sqlite_reserves_is_quoted() -> None:
    """Try each word of a list that holds SQLite's keywords as a bare table and column name."""
    words = (
        "ABORT ACTION AFTER ALWAYS ANALYZE ASC ATTACH BEFORE BEGIN BY CASCADE COLUMN CONFLICT CURRENT "
        "DATABASE DEFERRED DESC DETACH DO EACH END EXCLUDE EXCLUSIVE EXPLAIN FAIL FILTER FIRST FOLLOWING "
        "FOR GENERATED GLOB GROUPS IF IGNORE IMMEDIATE INDEXED INITIALLY INSTEAD KEY LAST LIKE MATCH "
        "MATERIALIZED NO NULLS OF OFFSET OTHERS OVER PARTITION PLAN PRAGMA PRECEDING QUERY RANGE RECURSIVE "
        "REGEXP REINDEX RELEASE RENAME REPLACE RESTRICT ROLLBACK ROW ROWS SAVEPOINT TEMP TEMPORARY TIES "
        "TRIGGER UNBOUNDED VACUUM VIEW VIRTUAL WITHOUT "
    )
    for word in [*words.split(), *RESERVED]:
        connection = sqlite3.connect(":memory:")
        name = quote(word)
        connection.execute(f'CREATE TABLE "{word}"("{word}" INT)')
        connection.execute(f'INSERT INTO "{word}" VALUES (7)')
        for sql in (f"SELECT {name} FROM {name}", f"SELECT t.{name} FROM {name} AS t WHERE {name} = 7"):
            assert connection.execute(sql).fetchall() == [(7,)], word
        connection.close()


def test_names_and_types_cannot_break_the_lines(tmp_path: Path) -> None:
    script = """CREATE TABLE t(a "VARCHAR\n  (20) /* x */", "b\nc" TEXT, "d*/" TEXT, "/*e" TEXT, f);
    CREATE TABLE "u\nv"(a REFERENCES t(a));
    CREATE TABLE w(a INT REFERENCES "u\nv"(a), "b\nc" TEXT, PRIMARY KEY (a, "b\nc"));"""
    assert schema_text(read_schema(make(tmp_path / "x.sqlite", script))) == "t(a VARCHAR (20) x, f)\nw(a INT)"


def test_foreign_keys_that_lead_nowhere_are_left_out(tmp_path: Path) -> None:
    script = """CREATE TABLE p(a INT, b INT);
    CREATE TABLE q(x INT REFERENCES gone(x), y INT REFERENCES p(z), z INT REFERENCES p,
        ok INT REFERENCES P(A));"""
    schema = read_schema(make(tmp_path / "x.sqlite", script))
    assert schema.foreign_keys == [ForeignKey("q", ("ok",), "p", ("a",))]


def test_views_virtual_and_internal_tables_are_left_out(tmp_path: Path) -> None:
    script = """CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a TEXT, b AS (a || '!'));
    INSERT INTO t(a) VALUES ('x'); ANALYZE;
    CREATE VIEW v AS SELECT * FROM no_such_table;
    CREATE VIRTUAL TABLE r USING rtree(id, x0, x1);
    CREATE TABLE sqlitefan(a) ;"""
    schema = read_schema(make(tmp_path / "x.sqlite", script))
    names = [table.name for table in schema.tables]
    assert names[0] == "t" and "sqlitefan" in names
    assert not {"v", "r", "sqlite_sequence", "sqlite_stat1"} & set(names)
    assert schema_text(schema).startswith("t(id INTEGER PRIMARY KEY, a TEXT /* 'x' */, b /* 'x!' */)\n")


def test_a_big_table_costs_no_more_than_its_first_rows(tmp_path: Path) -> None:
    path = make(
        tmp_path / "big.sqlite",
        "CREATE TABLE t(a TEXT);"
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 300000) "
        "INSERT INTO t SELECT 'v' || i FROM n;",
    )
    schema = read_schema(path)
    question = f"v{SAMPLE_ROWS} or v{SAMPLE_ROWS + 1}?"
    assert examples(schema_text(schema, question), "a") == [f"v{SAMPLE_ROWS}", "v1"]
    start = time.monotonic()
    assert len(schema_text(schema, "lorem ipsum " * 20_000)) < 100
    assert time.monotonic() - start < 20  # 40,000 words take a second; their pairs would take hours


def test_text_that_is_not_utf8_is_not_shown(tmp_path: Path) -> None:
    script = "CREATE TABLE t(a TEXT); INSERT INTO t VALUES (CAST(x'ff41' AS TEXT)), ('ok');"
    assert schema_text(read_schema(make(tmp_path / "x.sqlite", script))) == "t(a TEXT /* 'ok' */)"


def test_nothing_is_written(path: Path) -> None:
    content, files = path.read_bytes(), os.listdir(path.parent)
    schema_text(read_schema(path), "France")
    assert path.read_bytes() == content and os.listdir(path.parent) == files


def test_the_schema_is_readable_as_the_database_is(path: Path) -> None:
    """Every table and column of the schema can be asked for in the sandbox."""
    with open_database(path) as database:
        for table in read_schema(path).tables:
            columns = ", ".join(quote(column.name) for column in table.columns)
            rows = database.execute(f"SELECT {columns} FROM {quote(table.name)}")
            assert len(rows.columns) == len(table.columns)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such database; check the path"),
        (b"", "the database is empty"),
        (b"CREATE TABLE t(a);", "not an SQLite database"),
        (b"SQLite format 3\0" + b"\xff" * 5000, "cannot read the database"),
        (b"SQLite format 3\0", "cannot read the database"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "bad.sqlite"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=says) as error:
        read_schema(path)
    assert error.value.file == str(path) and str(path) in str(error.value)


def test_a_database_without_tables(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tables"):
        read_schema(make(tmp_path / "x.sqlite", "CREATE TABLE t(a); DROP TABLE t;"))


def test_a_file_broken_in_the_middle(path: Path) -> None:
    """The tables can still be read, the rows cannot: also then the error names the file."""
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[16:18], "big")
    content[size : 2 * size] = b"\xff" * size  # the first page of table singer
    path.write_bytes(content)
    schema = read_schema(path)
    with pytest.raises(InputError, match="cannot read the database"):
        schema_text(schema)
