"""Variants of databases: what only they tell apart, what they must never tell apart, and what they keep."""

# ruff: noqa: E501 (the tables of queries are easier to compare on one line)

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prm.errors import InputError
from prm.sql import SQLError, open_database, results_equal
from prm.sql.neighbours import neighbours
from prm.sql.variant_rows import KINDS, write_variant
from prm.sql.variants import Suite, Verdict, order_counts, remake

SCHEMA = """
CREATE TABLE stadium(stadium_id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, city TEXT, capacity INT);
CREATE TABLE singer(singer_id INTEGER PRIMARY KEY, name TEXT, age INT, country TEXT NOT NULL, rating REAL);
CREATE TABLE concert(concert_id INTEGER PRIMARY KEY, title TEXT, year INT NOT NULL,
    stadium_id INT NOT NULL REFERENCES stadium(stadium_id), fee INT CHECK (fee >= 0));
CREATE TABLE appearance(concert_id INT REFERENCES concert(concert_id),
    singer_id INT REFERENCES singer(singer_id), slot INT, PRIMARY KEY (concert_id, singer_id));
CREATE INDEX by_year ON concert(year);
CREATE VIEW adults AS SELECT * FROM singer WHERE age >= 18;
INSERT INTO stadium VALUES (1, 'Arena', 'Ayr', 5000), (2, 'Bowl', 'Bonn', 8000), (3, 'Court', 'Cork', 3000);
INSERT INTO singer VALUES (1, 'Ann', 30, 'France', 4.5), (2, 'Bea', 41, 'France', 3.5),
    (3, 'Cem', 25, 'Spain', 4.0), (4, 'Dai', 19, 'Wales', NULL), (5, 'Eva', 52, 'Spain', 2.5);
INSERT INTO concert VALUES (1, 'Spring', 2014, 1, 100), (2, 'Summer', 2015, 2, 200),
    (3, 'Autumn', 2015, 1, 0), (4, 'Winter', 2016, 3, 300);
INSERT INTO appearance VALUES (1, 1, 1), (1, 2, 2), (2, 3, 1), (3, 1, 1), (4, 5, 1), (4, 3, 2);
"""


def make_database(path: Path, script: str = SCHEMA) -> Path:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    return path


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    return make_database(tmp_path_factory.mktemp("music") / "music.sqlite")


# gold, a query that gives the same rows on the database above and is wrong
ACCIDENTS = [
    # a condition is missing, is too many, or is put otherwise
    ("SELECT name FROM singer WHERE age > 20", "SELECT name FROM singer WHERE age > 19"),
    ("SELECT name FROM singer WHERE age >= 25", "SELECT name FROM singer WHERE age > 20"),
    ("SELECT name FROM singer WHERE age < 41", "SELECT name FROM singer WHERE age <= 30"),
    ("SELECT title FROM concert WHERE year = 2016", "SELECT title FROM concert WHERE year >= 2016"),
    ("SELECT title FROM concert WHERE year = 2016", "SELECT title FROM concert WHERE year > 2015"),
    (
        "SELECT title FROM concert WHERE year = 2015 AND fee > 100",
        "SELECT title FROM concert WHERE fee > 100 AND year < 2016",
    ),
    ("SELECT title FROM concert WHERE year = 2014 OR fee > 200", "SELECT title FROM concert WHERE fee IN (100, 300)"),
    ("SELECT title FROM concert WHERE fee BETWEEN 100 AND 200", "SELECT title FROM concert WHERE fee > 0 AND fee < 300"),
    ("SELECT name FROM singer WHERE name LIKE '%va'", "SELECT name FROM singer WHERE name LIKE '%v%'"),
    ("SELECT name FROM singer WHERE name LIKE 'A%'", "SELECT name FROM singer WHERE name LIKE '%nn'"),
    # DISTINCT, duplicates
    ("SELECT DISTINCT stadium_id FROM concert WHERE year <> 2015", "SELECT stadium_id FROM concert WHERE year <> 2015"),
    ("SELECT count(*) FROM concert WHERE fee > 100", "SELECT count(DISTINCT fee) FROM concert WHERE fee > 100"),
    ("SELECT city FROM stadium UNION ALL SELECT title FROM concert", "SELECT city FROM stadium UNION SELECT title FROM concert"),
    # groups
    (
        "SELECT stadium_id FROM concert GROUP BY stadium_id HAVING count(*) >= 2",
        "SELECT stadium_id FROM concert GROUP BY stadium_id HAVING count(*) = 2",
    ),
    (
        "SELECT country, count(*) FROM singer GROUP BY country HAVING count(*) > 1",
        "SELECT country, 2 FROM singer GROUP BY country HAVING count(*) > 1",
    ),
    ("SELECT country, min(age) FROM singer WHERE country = 'Wales' GROUP BY country", "SELECT country, max(age) FROM singer WHERE country = 'Wales' GROUP BY country"),
    # NULL, where the database has some
    ("SELECT count(*) FROM singer WHERE country = 'Spain'", "SELECT count(rating) FROM singer WHERE country = 'Spain'"),
    # joins
    (
        "SELECT s.name FROM singer s JOIN appearance a ON a.singer_id = s.singer_id WHERE a.slot = 2",
        "SELECT DISTINCT s.name FROM singer s JOIN appearance a ON a.singer_id = s.singer_id WHERE a.slot = 2",
    ),
    (
        "SELECT name FROM stadium WHERE stadium_id IN (SELECT stadium_id FROM concert)",
        "SELECT name FROM stadium",
    ),
    # order and LIMIT
    ("SELECT name FROM singer ORDER BY age DESC LIMIT 1", "SELECT name FROM singer ORDER BY singer_id DESC LIMIT 1"),
    ("SELECT title FROM concert ORDER BY year, fee DESC", "SELECT title FROM concert ORDER BY concert_id"),
    ("SELECT name FROM singer WHERE age > 40 ORDER BY age LIMIT 3", "SELECT name FROM singer WHERE age > 40 ORDER BY age"),
    # accidents of this database alone
    ("SELECT name FROM singer WHERE country = 'Wales'", "SELECT name FROM singer WHERE rating IS NULL"),
    ("SELECT max(capacity) FROM stadium", "SELECT 8000"),
    ("SELECT name FROM stadium ORDER BY capacity LIMIT 1", "SELECT name FROM stadium WHERE name = 'Court'"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "wrong"), ACCIDENTS)
def test_only_a_variant_tells_them_apart(gold: str, wrong: str, music: Path, tmp_path: Path) -> None:
    with open_database(music) as database, Suite(database, gold, folder=tmp_path) as suite:
        assert suite.verdict(wrong).equal, "the table wants queries that are equal on the database itself"
        assert suite.distil([wrong]) == []
        verdict = suite.verdict(wrong)
        assert verdict.equal is False
        assert verdict.on in {variant.name for variant in suite.variants}
        assert suite.verdict(gold).equal


# gold, another choice of what gold leaves open: no error, whatever it gives
CHOICES = [
    ("SELECT name FROM singer ORDER BY age LIMIT 1", "SELECT name FROM singer ORDER BY age, name LIMIT 1"),
    ("SELECT name FROM singer ORDER BY age LIMIT 1", "SELECT name FROM singer ORDER BY age, singer_id DESC LIMIT 1"),
    ("SELECT name FROM singer ORDER BY age LIMIT 1", "SELECT name FROM singer WHERE age = (SELECT min(age) FROM singer)"),
    ("SELECT name, age FROM singer ORDER BY country", "SELECT name, age FROM singer ORDER BY country, age, rating"),
    ("SELECT name FROM singer ORDER BY rating DESC LIMIT 3", "SELECT name FROM singer ORDER BY rating DESC, singer_id DESC LIMIT 3"),
    (
        "SELECT country FROM singer GROUP BY country ORDER BY count(*) DESC LIMIT 1",
        "SELECT country FROM singer GROUP BY country ORDER BY count(*) DESC, country DESC LIMIT 1",
    ),
    (
        "SELECT name FROM stadium WHERE stadium_id = (SELECT stadium_id FROM concert GROUP BY 1 ORDER BY count(*) DESC LIMIT 1)",
        "SELECT s.name FROM stadium s JOIN concert c USING (stadium_id) GROUP BY stadium_id ORDER BY count(*) DESC, s.name LIMIT 1",
    ),
    ("SELECT name FROM singer LIMIT 2", "SELECT name FROM singer ORDER BY singer_id LIMIT 2"),
    # what nothing looks like
    ("SELECT max(age) FROM singer WHERE country = 'Wales'", "SELECT age FROM singer WHERE country = 'Wales' ORDER BY age DESC LIMIT 1"),
    ("SELECT count(*) FROM singer WHERE country = 'Spain'", "SELECT count(*) FROM singer WHERE country = 'Spain' GROUP BY country"),
    # a bare column of a group
    ("SELECT name, count(*) FROM singer GROUP BY country", "SELECT max(name), count(*) FROM singer GROUP BY country"),
]  # fmt: skip

# queries that mean the same wherever the constraints of the schema hold
EQUIVALENT = [
    # what a key decides
    ("SELECT name, count(*) FROM concert JOIN stadium USING (stadium_id) GROUP BY stadium_id",
     "SELECT name, count(*) FROM concert JOIN stadium USING (stadium_id) GROUP BY stadium_id, name, capacity"),
    ("SELECT singer_id FROM singer", "SELECT DISTINCT singer_id FROM singer"),
    ("SELECT count(*) FROM singer", "SELECT count(singer_id) FROM singer"),
    ("SELECT count(*) FROM singer", "SELECT count(DISTINCT singer_id) FROM singer"),
    ("SELECT name FROM stadium", "SELECT DISTINCT name FROM stadium"),
    # NOT NULL
    ("SELECT count(*) FROM concert", "SELECT count(year) FROM concert"),
    ("SELECT title FROM concert WHERE year <> 2015", "SELECT title FROM concert WHERE NOT year = 2015 OR year IS NULL"),
    ("SELECT country FROM singer", "SELECT coalesce(country, 'none') FROM singer"),
    ("SELECT name FROM stadium WHERE stadium_id NOT IN (SELECT stadium_id FROM concert)",
     "SELECT name FROM stadium AS s WHERE NOT EXISTS (SELECT 1 FROM concert AS c WHERE c.stadium_id = s.stadium_id)"),
    # foreign keys
    ("SELECT title FROM concert", "SELECT title FROM concert JOIN stadium USING (stadium_id)"),
    ("SELECT title, name FROM concert JOIN stadium USING (stadium_id)", "SELECT title, name FROM concert LEFT JOIN stadium USING (stadium_id)"),
    ("SELECT count(*) FROM appearance", "SELECT count(*) FROM appearance JOIN singer USING (singer_id) JOIN concert USING (concert_id)"),
    # CHECK
    ("SELECT title FROM concert WHERE fee > 0", "SELECT title FROM concert WHERE fee <> 0"),
    # types: a whole number has nothing between 20 and 21
    ("SELECT name FROM singer WHERE age > 20", "SELECT name FROM singer WHERE age >= 21"),
    ("SELECT name FROM singer WHERE age > 20", "SELECT name FROM singer WHERE age > 20.5"),
    # rewriting
    ("SELECT name FROM singer WHERE age BETWEEN 20 AND 30", "SELECT name FROM singer WHERE age >= 20 AND age <= 30"),
    ("SELECT name FROM singer WHERE country IN ('Spain', 'Wales')", "SELECT name FROM singer WHERE country = 'Wales' OR country = 'Spain'"),
    ("SELECT DISTINCT country FROM singer", "SELECT country FROM singer GROUP BY country"),
    ("SELECT stadium_id FROM stadium EXCEPT SELECT stadium_id FROM concert", "SELECT s.stadium_id FROM stadium s LEFT JOIN concert c ON c.stadium_id = s.stadium_id WHERE c.concert_id IS NULL"),
    ("SELECT avg(age) FROM singer", "SELECT 1.0 * sum(age) / count(age) FROM singer"),
    ("SELECT name FROM singer WHERE age = (SELECT max(age) FROM singer)", "SELECT name FROM singer AS s WHERE NOT EXISTS (SELECT 1 FROM singer AS t WHERE t.age > s.age) AND age IS NOT NULL"),
    ("WITH c AS (SELECT * FROM concert WHERE year = 2015) SELECT name FROM stadium WHERE stadium_id IN (SELECT stadium_id FROM c)",
     "SELECT DISTINCT s.name FROM stadium s JOIN concert c ON c.stadium_id = s.stadium_id AND c.year = 2015"),
]  # fmt: skip


def all_variants(database, gold: str, folder: Path, n: int = 12):
    """Every usable candidate, not only what distilling keeps; with its name."""
    for index in range(n):
        path = folder / f"{index}.sqlite"
        digest = write_variant(database.path, gold, 0, index, path)
        name = f"variant:0:{index}:{digest}"
        path.unlink()
        with contextlib.suppress(InputError):
            yield remake(database.path, gold, name, folder)


def verdict_of(database, gold: str, sql: str, folder: Path) -> Verdict:
    """With variants made to tell just these two apart."""
    with Suite(database, gold, folder=folder) as suite:
        suite.distil([sql])
        return suite.verdict(sql)


@pytest.mark.parametrize(("gold", "same"), EQUIVALENT)
def test_nothing_tells_equivalent_queries_apart(gold: str, same: str, music: Path, tmp_path: Path) -> None:
    with open_database(music) as database:
        assert verdict_of(database, gold, same, tmp_path) == Verdict(True)
        assert verdict_of(database, same, gold, tmp_path) == Verdict(True)


@pytest.mark.parametrize(("gold", "choice"), CHOICES)
def test_no_answer_is_blamed_for_what_gold_leaves_open(
    gold: str, choice: str, music: Path, tmp_path: Path
) -> None:
    with open_database(music) as database:
        for variant in all_variants(database, gold, tmp_path):
            with open_database(variant.path) as there:
                rows = there.execute(choice)
            assert results_equal(variant.gold, rows, ordered=variant.ordered), variant
            variant.path.unlink()


# --- random databases ---------------------------------------------------------------------------------------

singers = st.lists(
    st.tuples(
        st.sampled_from("abcd"),
        st.integers(15, 20) | st.none(),
        st.sampled_from(["F", "S"]),
        st.sampled_from([1.0, 1.5, None]),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    singers,
    st.lists(st.tuples(st.integers(0, 9), st.integers(2014, 2016)), max_size=5),
    st.integers(0, len(EQUIVALENT) - 1),
)
def test_equivalent_queries_stay_equal_whatever_the_database(tmp_path: Path, rows, concerts, which) -> None:
    script = SCHEMA.partition("INSERT INTO singer")[0]
    database = tmp_path / "random.sqlite"
    database.unlink(missing_ok=True)
    make_database(database, script)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.executemany("INSERT INTO singer(name, age, country, rating) VALUES (?, ?, ?, ?)", rows)
        connection.executemany(
            "INSERT INTO concert(title, year, stadium_id, fee) VALUES (?, ?, ?, ?)",
            [(f"t{n % 3}", year, 1 + n % 3, n) for n, year in concerts],
        )
        connection.commit()
    gold, same = EQUIVALENT[which]
    with open_database(database) as opened:
        assert verdict_of(opened, gold, same, tmp_path) == Verdict(True)


# --- what is kept -------------------------------------------------------------------------------------------

GOLD = "SELECT s.name FROM concert c JOIN stadium s USING (stadium_id) WHERE c.year >= 2015 AND c.fee > 100"


@pytest.mark.parametrize("index", range(3 * len(KINDS)))
def test_constraints_and_types_are_kept(index: int, music: Path, tmp_path: Path) -> None:
    path = tmp_path / "variant.sqlite"
    write_variant(music, GOLD, 7, index, path)
    with (
        contextlib.closing(sqlite3.connect(path)) as connection,
        contextlib.closing(sqlite3.connect(music)) as was,
    ):
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        schema = "SELECT type, name, sql FROM sqlite_master ORDER BY name"
        assert connection.execute(schema).fetchall() == was.execute(schema).fetchall()
        for (table,) in was.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            columns = [name for (name,) in was.execute("SELECT name FROM pragma_table_info(?)", (table,))]
            for column in columns:
                types = f"SELECT DISTINCT typeof({column}) FROM {table}"
                assert set(connection.execute(types)) <= set(was.execute(types)), (table, column)
        assert connection.execute(
            "SELECT count(*) FROM singer WHERE country IS NULL OR age IS NULL"
        ).fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM concert WHERE fee < 0").fetchone() == (0,)
        assert connection.execute(
            "SELECT max(n) FROM (SELECT count(*) AS n FROM stadium GROUP BY name)"
        ).fetchone() == (1,)


def test_keys_that_nobody_declared_but_the_data_obeys(tmp_path: Path) -> None:
    """`city.id` and `person.city_id` tell by name, `club.code` and `person.club` by gold's join alone."""
    database = make_database(
        tmp_path / "towns.sqlite",
        "CREATE TABLE city(id INTEGER PRIMARY KEY, name TEXT); CREATE TABLE club(n INT, code TEXT);"
        "CREATE TABLE person(name TEXT, city_id INT, club TEXT);"
        "INSERT INTO city VALUES (1, 'Ayr'), (2, 'Bonn'), (3, 'Cork'); INSERT INTO club VALUES (1, 'x'), (2, 'y');"
        "INSERT INTO person VALUES ('Ann', 1, 'x'), ('Bea', 2, 'y'), ('Cem', 2, 'x');",
    )
    gold = "SELECT p.name FROM person p JOIN club ON p.club = club.code"
    with open_database(database) as opened:
        for same in (
            "SELECT name FROM person",
            "SELECT p.name FROM person p JOIN city ON city.id = p.city_id",
        ):
            assert verdict_of(opened, gold, same, tmp_path) == Verdict(True)


def test_broken_foreign_keys_of_the_original_are_mended(tmp_path: Path) -> None:
    """Where no flight leads to an airport, every join is empty, and any two are equal by accident."""
    database = make_database(
        tmp_path / "flights.sqlite",
        "CREATE TABLE airport(code TEXT PRIMARY KEY, city TEXT);"
        "CREATE TABLE flight(n INTEGER PRIMARY KEY, goes_to TEXT REFERENCES airport(code));"
        "INSERT INTO airport VALUES ('AAA', 'Ayr'), ('BBB', 'Bonn'); INSERT INTO flight VALUES (1, ' AAA'), (2, ' BBB');",
    )
    gold = "SELECT n FROM flight JOIN airport ON goes_to = code WHERE city = 'Ayr'"
    with open_database(database) as opened, Suite(opened, gold, folder=tmp_path) as suite:
        wrong = "SELECT n FROM flight JOIN airport ON goes_to = code WHERE city = 'Bonn'"
        assert suite.verdict(wrong).equal
        suite.distil([wrong])
        assert suite.verdict(wrong).equal is False


def test_a_foreign_key_into_a_table_without_rows_empties_nothing(tmp_path: Path) -> None:
    """As of a database whose dump was cut off: no row of `film` can keep it, in the original or elsewhere."""
    database = make_database(
        tmp_path / "films.sqlite",
        "CREATE TABLE language(id INTEGER PRIMARY KEY, name TEXT);"
        "CREATE TABLE film(id INTEGER PRIMARY KEY, title TEXT, minutes INT, language INT REFERENCES language(id));"
        "INSERT INTO film VALUES (1, 'One', 90, 1), (2, 'Two', 100, 1), (3, 'Three', 120, 2);",
    )
    gold, wrong = "SELECT title FROM film WHERE minutes > 95", "SELECT title FROM film WHERE minutes > 90"
    with open_database(database) as opened, Suite(opened, gold, folder=tmp_path) as suite:
        assert suite.verdict(wrong).equal
        suite.distil([wrong])
        assert suite.verdict(wrong).equal is False


#: Gold that groups by what a name or a number stands for; the column of an aggregate's FILTER is no bare one;
#: and what else people write that is nothing special.
SPELLED = [
    ("SELECT COALESCE(country, '?') AS c, COUNT(*) FROM singer GROUP BY c", "COUNT(rating)"),
    ("SELECT UPPER(country), COUNT(*) FROM singer GROUP BY 1", "COUNT(rating)"),
    ("SELECT age / 10 AS decade, COUNT(*) AS n FROM singer GROUP BY decade ORDER BY n DESC, decade", "COUNT(rating)"),
    ("SELECT country, COUNT(*) FILTER (WHERE age > 20) FROM singer GROUP BY country", "COUNT(rating) FILTER (WHERE age > 19)"),
    ("SELECT country, COUNT(*) AS n FROM singer GROUP BY country HAVING n >= 2", "COUNT(rating)"),
    ("SELECT country, COUNT(*) FROM singer GROUP BY country; -- by country", "COUNT(rating)"),
    ("SELECT name, COUNT(*) OVER w FROM singer WINDOW w AS (PARTITION BY country)", "COUNT(rating)"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "count"), SPELLED)
def test_everyday_gold_has_variants(gold: str, count: str, music: Path, tmp_path: Path) -> None:
    old = gold[gold.index("COUNT") : gold.index(" FROM")].partition(" AS ")[0].removesuffix(" OVER w")
    with open_database(music) as opened, Suite(opened, gold, folder=tmp_path) as suite:
        suite.distil([gold.replace(old, count)])
        assert len(suite.variants) >= 4
        assert suite.verdict(gold.replace(old, count)).equal is False


def test_groups_of_a_size_that_is_asked_for_by_name(music: Path, tmp_path: Path) -> None:
    """Sizes around the number come about whether the count is spelled out or named."""
    gold = "SELECT stadium_id, COUNT(*) AS n FROM concert GROUP BY stadium_id HAVING n > 3"
    with open_database(music) as opened, Suite(opened, gold, folder=tmp_path) as suite:
        wrong = gold.replace("n > 3", "n >= 3")
        suite.distil([wrong])
        assert suite.verdict(wrong).equal is False


def test_a_big_database_costs_no_more_than_a_small_one(tmp_path: Path) -> None:
    rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000)"
    database = make_database(
        tmp_path / "big.sqlite",
        "CREATE TABLE town(id INTEGER PRIMARY KEY, name TEXT);"
        "CREATE TABLE person(id INTEGER PRIMARY KEY, town_id INT REFERENCES town(id), age INT, note TEXT);"
        f"{rows} INSERT INTO town SELECT i, 'town ' || i FROM n;"
        f"{rows} INSERT INTO person SELECT i, 1 + i * 7 % 300000, i % 90, hex(zeroblob(50)) FROM n;",
    )
    assert database.stat().st_size > 20 << 20
    start = time.monotonic()
    with open_database(database) as opened:
        gold = "SELECT t.name FROM person p JOIN town t ON t.id = p.town_id WHERE p.age = 30 AND p.id < 100"
        wrong = "SELECT t.name FROM person p JOIN town t ON t.id = p.town_id WHERE p.age = 30 AND p.id <= 100"
        with Suite(opened, gold, folder=tmp_path) as suite:
            suite.distil([wrong])
            assert suite.variants
            assert all(variant.path.stat().st_size < 1 << 20 for variant in suite.variants)
    assert time.monotonic() - start < 30


# --- names --------------------------------------------------------------------------------------------------


def contents(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def test_a_variant_is_made_again_from_its_name(music: Path, tmp_path: Path) -> None:
    with open_database(music) as database, Suite(database, GOLD, folder=tmp_path, seed=3) as suite:
        suite.distil(neighbours(GOLD, music))
        assert suite.variants
        for variant in suite.variants:
            again = remake(music, GOLD, variant.name, tmp_path)
            assert (again.name, again.kind, again.gold, again.ordered) == (
                variant.name, variant.kind, variant.gold, variant.ordered,
            )  # fmt: skip
            assert contents(again.path) == contents(variant.path)


@pytest.mark.parametrize(
    ("name", "gold"),
    [
        ("variant:0:0:00000000", GOLD),  # another digest
        ("variant:0:0", GOLD),
        ("variant:0:0:0000000z", GOLD),
        ("execution", GOLD),
        ("variant:0:0:00000000", "SELEC"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(name: str, gold: str, music: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        remake(music, gold, name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_original_or_gold_gives_another_name(music: Path, tmp_path: Path) -> None:
    name = f"variant:0:1:{write_variant(music, GOLD, 0, 1, tmp_path / 'v')}"
    other = make_database(tmp_path / "other.sqlite", SCHEMA.replace("'Bonn', 8000", "'Bonn', 8001"))
    with pytest.raises(InputError, match="made again"):
        remake(other, GOLD, name, tmp_path)
    with pytest.raises(InputError, match="made again"):
        remake(music, GOLD.replace("2015", "2014"), name, tmp_path)


def test_every_process_makes_the_same_variants(music: Path, tmp_path: Path) -> None:
    """Whatever the seed of Python's hashes: nothing hangs on the order of a set."""
    code = (
        "import sys; from pathlib import Path; from prm.sql.variant_rows import write_variant\n"
        "from prm.sql.neighbours import neighbours\n"
        "print([write_variant(Path(sys.argv[1]), sys.argv[3], 5, i, Path(sys.argv[2])) for i in range(16)])\n"
        "print(neighbours(sys.argv[3], sys.argv[1]))"
    )
    gold = GOLD + " AND s.name LIKE '%r%' GROUP BY s.name HAVING count(*) > 2 ORDER BY count(*) LIMIT 3"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code, str(music), str(tmp_path / f"{seed}.sqlite"), gold],
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (0, 1, 2)
    }
    assert len(printed) == 1
    (text,) = printed
    assert len(set(text.splitlines()[0].split(","))) > 12, "the candidates differ from each other"


# --- the suite ----------------------------------------------------------------------------------------------


def test_files_go_with_the_suite(music: Path, tmp_path: Path) -> None:
    before = music.read_bytes()
    with open_database(music) as database:
        with Suite(database, GOLD, folder=tmp_path) as suite:
            suite.distil(neighbours(GOLD, music), limit=5)
            assert len(suite.variants) == 5
            assert sorted(tmp_path.iterdir()) == sorted(variant.path for variant in suite.variants)
        assert list(tmp_path.iterdir()) == []
    assert music.read_bytes() == before


def test_what_an_error_leaves_open(music: Path, tmp_path: Path) -> None:
    gold = "SELECT abs(age) FROM singer WHERE age > 10"
    with open_database(music) as database, Suite(database, gold, folder=tmp_path) as suite:
        suite.distil([])
        verdict = suite.verdict("SELECT age FROM nowhere")
        assert (verdict.equal, verdict.on) == (None, "database")
        assert "no such table" in verdict.reason
        # fine for five singers, beyond 64 bits for more
        risky = (
            "SELECT age FROM singer WHERE age > 10 AND (SELECT sum(9223372036854775807 / 5) FROM singer) > 0"
        )
        verdict = suite.verdict(risky)
        assert (verdict.equal, verdict.on.split(":")[0]) == (None, "variant")
        assert "overflow" in verdict.reason


def test_gold_must_run(music: Path, tmp_path: Path) -> None:
    with open_database(music) as database, pytest.raises(SQLError):
        Suite(database, "SELECT nothing FROM singer", folder=tmp_path)


@pytest.mark.parametrize(
    "gold",
    [
        "SELECT random() FROM singer",
        "SELECT group_concat(name) FROM singer",
        "SELECT name FROM singer WHERE age > 1000",
    ],
)
def test_no_variants_where_gold_hangs_on_chance_or_says_nothing(
    gold: str, music: Path, tmp_path: Path
) -> None:
    with open_database(music) as database, Suite(database, gold, folder=tmp_path) as suite:
        for variant in (suite.distil([]), suite.variants)[1]:
            assert (
                "age" in gold and variant.gold
            )  # a constant of gold's was put in, so that it says something


def test_neighbours_are_queries_and_differ_in_one_clause(music: Path) -> None:
    gold = "SELECT DISTINCT name FROM singer WHERE age >= 20 AND country = 'Spain' ORDER BY age DESC LIMIT 3"
    found = neighbours(gold, music)
    for wanted in (
        "SELECT name FROM singer WHERE age >= 20 AND country = 'Spain' ORDER BY age DESC LIMIT 3",
        "SELECT DISTINCT name FROM singer WHERE age > 20 AND country = 'Spain' ORDER BY age DESC LIMIT 3",
        "SELECT DISTINCT name FROM singer WHERE age >= 21 AND country = 'Spain' ORDER BY age DESC LIMIT 3",
        "SELECT DISTINCT name FROM singer WHERE age >= 20 OR country = 'Spain' ORDER BY age DESC LIMIT 3",
        "SELECT DISTINCT name FROM singer WHERE country = 'Spain' ORDER BY age DESC LIMIT 3",
        "SELECT DISTINCT name FROM singer WHERE age >= 20 AND country = 'Spain' ORDER BY age LIMIT 3",
        "SELECT DISTINCT name FROM singer WHERE age >= 20 AND country = 'Spain' ORDER BY age DESC LIMIT 4",
        "SELECT DISTINCT country FROM singer WHERE age >= 20 AND country = 'Spain' ORDER BY age DESC LIMIT 3",
    ):
        assert wanted in found
    assert gold not in found
    with open_database(music) as database:
        for sql in found:
            database.execute(sql)
    assert neighbours("SELEC nothing", music) == []


@pytest.mark.parametrize(
    ("gold", "counts"),
    [
        ("SELECT DISTINCT a FROM t ORDER BY a", True),
        ("SELECT DISTINCT t.a FROM t ORDER BY A DESC", True),
        ("SELECT DISTINCT a FROM t ORDER BY b", False),  # 'x' stands for 1 and for 3
        ("SELECT a FROM t ORDER BY b", True),
        ("SELECT a FROM t ORDER BY a = 'x'", False),
        ("SELECT a FROM t", False),
    ],
)
def test_where_the_order_of_rows_counts(gold, counts, tmp_path):
    with sqlite3.connect(tmp_path / "t.sqlite") as connection:
        connection.executescript(
            "CREATE TABLE t (a TEXT, b INTEGER);INSERT INTO t VALUES ('x', 1), ('y', 2), ('x', 3), ('z', 4)"
        )
    connection.close()
    with open_database(tmp_path / "t.sqlite") as database:
        assert order_counts(database, gold, database.execute(gold)) is counts
