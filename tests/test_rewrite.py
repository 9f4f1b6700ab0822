"""Equivalent rewrites as a table of SQL in -> SQL out, and on a database with awkward rows: equal results."""

import random
import sqlite3
from collections import Counter

import pytest

from prm.sql.chain import Known, Link, links_of, respelled, tables_of
from prm.sql.compare import results_equal
from prm.sql.decompose import assemble, decompose, parse_fragment, render_fragment, to_sql
from prm.sql.describe import describe
from prm.sql.rewrite import CHAIN_REWRITES, REWRITES, alternatives, chain_rewrites, rewrites
from prm.sql.schema import read_schema

DDL = """
CREATE TABLE singer (singer_id INTEGER PRIMARY KEY, name TEXT, country TEXT, age INTEGER);
CREATE TABLE concert (concert_id INTEGER PRIMARY KEY, title TEXT, year INTEGER, visitors INTEGER,
    singer_id INTEGER NOT NULL REFERENCES singer(singer_id));
CREATE TABLE visit (code TEXT, day TEXT, nights INTEGER);
INSERT INTO visit VALUES ('AB', '2020-01-31', 3), ('CD', '2021-12-01', 1), ('CD', '2020-06-15', 0);
INSERT INTO singer VALUES (1, 'Joe', 'France', 25), (2, 'Joe', 'Spain', NULL), (3, 'Eve', NULL, 41),
    (4, 'Dan', 'France', 30), (5, 'Ann', 'Italy', 30), (6, NULL, 'Spain', 52);
INSERT INTO concert VALUES (1, 'Home', 2014, 5, 1), (2, 'Away', 2014, NULL, 1), (3, 'Home', 2015, 7, 4),
    (4, NULL, 2016, 9, 3), (5, 'Rain', NULL, 9, 4);
"""


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    path = tmp_path_factory.mktemp("rewrite") / "music.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(DDL)
    schema = read_schema(path)

    def values(table, column):
        sql = (
            f"SELECT {column}, COUNT(*) FROM {table} WHERE {column} IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"
        )
        return connection.execute(sql).fetchall()

    yield connection, Known(tables_of(schema), links_of(schema), values)
    connection.close()


JOINED = "singer JOIN concert ON singer.singer_id = concert.singer_id"
JOIN = f"SELECT singer.name, concert.year FROM {JOINED}"
HEARD = "SELECT name FROM singer WHERE singer_id IN (SELECT singer_id FROM concert WHERE year = 2014)"
AGES = "SELECT name FROM singer WHERE age >= 25 AND age <= 30"

TABLE = [
    (
        "join_order",
        JOIN,
        "SELECT singer.name, concert.year FROM concert JOIN singer ON singer.singer_id = concert.singer_id",
    ),
    (
        "join_sides",
        JOIN,
        JOIN.replace("singer.singer_id = concert.singer_id", "concert.singer_id = singer.singer_id"),
    ),
    (
        "join_in_where",
        f"{JOIN} WHERE singer.age > 3 OR concert.year < 2015",
        "SELECT singer.name, concert.year FROM singer, concert "
        "WHERE singer.singer_id = concert.singer_id AND (singer.age > 3 OR concert.year < 2015)",
    ),
    (
        "left_join",
        "SELECT concert.title FROM concert JOIN singer ON concert.singer_id = singer.singer_id",
        "SELECT concert.title FROM concert LEFT JOIN singer ON concert.singer_id = singer.singer_id",
    ),
    (
        "needless_join",
        "SELECT title FROM concert WHERE year > 2014",
        "SELECT concert.title FROM concert JOIN singer ON concert.singer_id = singer.singer_id "
        "WHERE concert.year > 2014",
    ),
    (
        "in_exists",
        HEARD,
        "SELECT name FROM singer WHERE EXISTS(SELECT 1 FROM concert "
        "WHERE year = 2014 AND concert.singer_id = singer.singer_id)",
    ),
    (
        "in_exists",
        HEARD.replace("singer_id IN", "NOT singer_id IN"),
        "SELECT name FROM singer WHERE NOT EXISTS(SELECT 1 FROM concert "
        "WHERE year = 2014 AND concert.singer_id = singer.singer_id)",
    ),
    (
        "in_join",
        HEARD,
        "SELECT singer.name FROM singer JOIN (SELECT DISTINCT singer_id FROM concert WHERE year = 2014) "
        "AS chosen ON singer.singer_id = chosen.singer_id",
    ),
    (
        "not_in_except",
        "SELECT singer_id FROM singer WHERE NOT singer_id IN (SELECT singer_id FROM concert)",
        "SELECT singer_id FROM singer EXCEPT SELECT singer_id FROM concert",
    ),
    ("sides", "SELECT name FROM singer WHERE age > 30", "SELECT name FROM singer WHERE 30 < age"),
    ("condition_order", AGES, "SELECT name FROM singer WHERE age <= 30 AND age >= 25"),
    ("between", AGES, "SELECT name FROM singer WHERE age BETWEEN 25 AND 30"),
    (
        "between",
        "SELECT name FROM singer WHERE NOT age BETWEEN 25 AND 30",
        "SELECT name FROM singer WHERE NOT (age >= 25 AND age <= 30)",
    ),
    (
        "in_list",
        "SELECT name FROM singer WHERE country = 'Spain'",
        "SELECT name FROM singer WHERE country IN ('Spain')",
    ),
    (
        "in_list",
        "SELECT name FROM singer WHERE country = 'Spain' OR country = 'Italy'",
        "SELECT name FROM singer WHERE country IN ('Spain', 'Italy')",
    ),
    (
        "in_list",
        "SELECT name FROM singer WHERE age > 3 AND country IN ('Spain', 'Italy')",
        "SELECT name FROM singer WHERE age > 3 AND (country = 'Spain' OR country = 'Italy')",
    ),
    ("negated", "SELECT name FROM singer WHERE age > 30", "SELECT name FROM singer WHERE NOT age <= 30"),
    ("constant", "SELECT name FROM singer WHERE age > 30", "SELECT name FROM singer WHERE age > 29 + 1"),
    ("constant", "SELECT name FROM singer WHERE age > 30", "SELECT name FROM singer WHERE age > 2 * 15"),
    ("count", "SELECT COUNT(*) FROM singer", "SELECT COUNT(1) FROM singer"),
    ("count", "SELECT COUNT(*) FROM singer", "SELECT COUNT(singer_id) FROM singer"),
    ("count", "SELECT COUNT(*) FROM singer", "SELECT COUNT(DISTINCT singer_id) FROM singer"),
    (
        "count",
        "SELECT country, COUNT(*) FROM singer GROUP BY country",
        "SELECT country, SUM(1) FROM singer GROUP BY country",
    ),
    ("average", "SELECT AVG(age) FROM singer", "SELECT CAST(SUM(age) AS REAL) / COUNT(age) FROM singer"),
    ("average", "SELECT AVG(age) FROM singer", "SELECT AVG(CAST(age AS REAL)) FROM singer"),
    ("distinct_group", "SELECT DISTINCT country FROM singer", "SELECT country FROM singer GROUP BY country"),
    ("distinct_group", "SELECT singer_id, name FROM singer", "SELECT DISTINCT singer_id, name FROM singer"),
    ("distinct_group", HEARD, HEARD.replace("(SELECT", "(SELECT DISTINCT")),
    (
        "case_count",
        "SELECT COUNT(*) FROM singer WHERE age > 30",
        "SELECT COUNT(CASE WHEN age > 30 THEN 1 END) FROM singer",
    ),
    (
        "group_window",
        "SELECT country, MAX(age) FROM singer GROUP BY country",
        "SELECT DISTINCT country, MAX(age) OVER (PARTITION BY country) FROM singer",
    ),
    (
        "implied_condition",
        "SELECT name FROM singer WHERE country = 'Spain'",
        "SELECT name FROM singer WHERE country = 'Spain' AND country <> 'France'",
    ),
    (
        "implied_condition",
        "SELECT name FROM singer WHERE age > 30",
        "SELECT name FROM singer WHERE age > 30 AND NOT age IS NULL",
    ),
    (
        "implied_condition",
        "SELECT title FROM concert WHERE year = 2014",
        "SELECT title FROM concert WHERE year = 2014 AND year <= 2014",
    ),
    (
        "implied_condition",
        "SELECT AVG(nights) FROM visit",
        "SELECT AVG(nights) FROM visit WHERE nights >= 0",
    ),
    (
        "implied_condition",
        "SELECT name FROM singer",
        "SELECT name FROM singer WHERE singer_id > 0",
    ),
    ("count", "SELECT COUNT(*) FROM singer", "SELECT COALESCE(SUM(1), 0) FROM singer"),
    (
        "group_finer",
        "SELECT singer_id, name FROM singer GROUP BY singer_id",
        "SELECT singer_id, name FROM singer GROUP BY singer_id, country",
    ),
    (
        "group_finer",
        f"SELECT singer.name, COUNT(*) FROM {JOINED} GROUP BY concert.singer_id",
        f"SELECT singer.name, COUNT(*) FROM {JOINED} GROUP BY singer.name, concert.singer_id",
    ),
    ("group_finer", "SELECT name FROM singer", "SELECT name FROM singer GROUP BY singer_id"),
    (
        "group_finer",
        "SELECT AVG(age) FROM singer WHERE country = 'France'",
        "SELECT AVG(age) FROM singer WHERE country = 'France' GROUP BY country",
    ),
    (
        "group_extreme",
        f"SELECT singer.name, COUNT(*) FROM {JOINED} GROUP BY concert.singer_id",
        f"SELECT MAX(singer.name), COUNT(*) FROM {JOINED} GROUP BY concert.singer_id",
    ),
    ("extreme", "SELECT MAX(age) FROM singer", "SELECT age FROM singer ORDER BY age DESC LIMIT 1"),
    ("extreme", "SELECT age FROM singer ORDER BY age DESC LIMIT 1", "SELECT MAX(age) FROM singer"),
    ("idle_order", "SELECT name, age FROM singer", "SELECT name, age FROM singer ORDER BY age DESC"),
    ("idle_count", "SELECT COUNT(*) FROM singer", "SELECT COALESCE(COUNT(*), 0) FROM singer"),
    (
        "idle_text",
        "SELECT name FROM singer WHERE country = 'Spain'",
        "SELECT name FROM singer WHERE country || '' = 'Spain'",
    ),
    ("idle_text", "SELECT name FROM singer", "SELECT TRIM(name) FROM singer"),
    (
        "idle_cast",
        "SELECT name FROM singer WHERE age > 30",
        "SELECT name FROM singer WHERE CAST(age AS INTEGER) > 30",
    ),
    (
        "idle_date",
        "SELECT code FROM visit WHERE day > '2020-03-01'",
        "SELECT code FROM visit WHERE STRFTIME('%Y-%m-%d', day) > '2020-03-01'",
    ),
    ("any_case", "SELECT code FROM visit", "SELECT UPPER(code) FROM visit"),
    (
        "any_case",
        "SELECT name FROM singer ORDER BY name",
        "SELECT name FROM singer ORDER BY LOWER(name)",
    ),
    (
        "any_case",
        "SELECT name FROM singer WHERE country = 'Spain'",
        "SELECT name FROM singer WHERE LOWER(country) = 'spain'",
    ),
    (
        "order_number",
        "SELECT name, age FROM singer ORDER BY age DESC",
        "SELECT name, age FROM singer ORDER BY 2 DESC",
    ),
    ("alias", JOIN, JOIN.replace("singer.", "T1.").replace("concert.", "T2.")
        .replace("FROM singer JOIN concert", "FROM singer AS T1 JOIN concert AS T2")),
    ("alias", "SELECT COUNT(*) FROM singer", "SELECT COUNT(*) AS result FROM singer"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "sql", "expected"), TABLE, ids=lambda x: x if x in REWRITES else "")
def test_table(kind, sql, expected, music):
    connection, known = music
    _, tree = parse_fragment(sql)
    made = list(rewrites(kind, tree, known, random.Random(0)))
    assert to_sql(parse_fragment(expected)[1]) in [to_sql(new) for new in made]
    assert to_sql(tree) == to_sql(parse_fragment(sql)[1]), "the tree that was given has been changed"
    assert all(child.parent is node for node in tree.walk() for child in node.iter_expressions())
    rows = connection.execute(sql).fetchall()
    for new in made:
        assert results_equal(rows, connection.execute(to_sql(new)).fetchall(), ordered=False), to_sql(new)
        assert describe(new) != describe(tree)


def test_every_kind_is_in_the_table():
    assert {kind for kind, _, _ in TABLE} == set(REWRITES)


NOT_MADE = [
    # NOT IN finds nothing beside a NULL, NOT EXISTS does: only keys are safe.
    ("in_exists", "SELECT name FROM singer WHERE NOT age IN (SELECT year FROM concert)"),
    ("not_in_except", "SELECT name FROM singer WHERE NOT name IN (SELECT title FROM concert)"),
    # A singer without a concert would come in, and one with two would come twice.
    ("left_join", JOIN),
    ("needless_join", "SELECT name FROM singer"),
    # Only what all of the rows fulfil is implied, and only a key decides what else is in a row.
    ("implied_condition", "SELECT code, COUNT(*) FROM visit WHERE nights > 1 OR code = 'AB' GROUP BY code"),
    ("group_finer", "SELECT country, COUNT(*) FROM singer GROUP BY country"),
    ("group_finer", "SELECT AVG(age) FROM singer WHERE country <> 'France'"),
    ("group_extreme", "SELECT name, COUNT(*) FROM singer GROUP BY country"),
    # NULL comes first from the lowest on, MIN passes over it.
    ("extreme", "SELECT age FROM singer ORDER BY age LIMIT 1"),
    ("extreme", "SELECT age FROM singer ORDER BY age DESC LIMIT 2"),
    ("idle_order", "SELECT name FROM singer LIMIT 2"),
    ("idle_date", "SELECT name FROM singer WHERE country > '2020-03-01'"),
    ("distinct_group", "SELECT name FROM singer"),
    ("join_order", JOIN.replace("JOIN", "LEFT JOIN")),
    ("join_order", "SELECT * FROM singer JOIN concert ON singer.singer_id = concert.singer_id"),
    ("any_case", "SELECT name FROM singer WHERE country <> 'Spain'"),
    ("count", "SELECT COUNT(age) FROM singer"),
    ("group_window", "SELECT country, COUNT(*) FROM singer GROUP BY country ORDER BY country"),
]


@pytest.mark.parametrize(("kind", "sql"), NOT_MADE)
def test_what_might_change_the_result_is_not_made(kind, sql, music):
    assert list(rewrites(kind, parse_fragment(sql)[1], music[1], random.Random(0))) == []


def chain_of(sql, known):
    tables = {r.name: [a.name for a in r.attributes] for r in known.relations.values()}
    return respelled([Link(*parse_fragment(step.sql)) for step in decompose(sql, tables)], known)


def fragments(chain):
    return [render_fragment(link.name, link.tree) for link in chain]


def only(kind, sql, known):
    """What the rewrite makes of the chain, wherever it is possible."""
    return [fragments(c) for c in chain_rewrites(kind, chain_of(sql, known), known, random.Random(0))]


def test_steps_that_do_not_read_each_other_change_places(music):
    sql = "SELECT name FROM singer WHERE age > 3 UNION SELECT title FROM concert WHERE year > 3"
    first, second, last = fragments(chain_of(sql, music[1]))
    assert only("step_order", sql, music[1]) == [[second, first, last]]
    assert only("step_order", "SELECT AVG(age) FROM singer WHERE age > 3", music[1]) == []


def test_a_filter_is_written_into_the_step_that_reads_it(music):
    assert only("one_step", "SELECT AVG(age) FROM singer WHERE country = 'Spain'", music[1]) == [
        ["SELECT AVG(age) FROM singer WHERE country = 'Spain'"]
    ]
    older = "SELECT name FROM singer WHERE age > (SELECT AVG(age) FROM singer)"
    assert only("one_step", older, music[1]) == []


def test_a_step_becomes_a_derived_table(music):
    assert only("derived_table", "SELECT AVG(age) FROM singer WHERE country = 'Spain'", music[1]) == [
        [
            "SELECT AVG(age) FROM (SELECT age FROM singer WHERE country = 'Spain') "
            "AS singer_where_country_spain"
        ]
    ]


QUERIES = [
    "SELECT COUNT(*) FROM singer WHERE country = 'France'",
    "SELECT country, COUNT(*) FROM singer GROUP BY country HAVING COUNT(*) > 1",
    f"{JOIN} WHERE concert.year >= 2014 AND singer.country = 'France'",
    "SELECT singer.name FROM singer JOIN concert ON singer.singer_id = concert.singer_id "
    "GROUP BY singer.singer_id HAVING COUNT(*) > 1",
    "SELECT name FROM singer WHERE singer_id NOT IN (SELECT singer_id FROM concert)",
    "SELECT name FROM singer WHERE age > (SELECT AVG(age) FROM singer) OR country = 'Spain'",
    "SELECT title FROM concert WHERE year = 2014 UNION SELECT title FROM concert WHERE year = 2015",
    "SELECT name, age FROM singer WHERE age BETWEEN 25 AND 45 ORDER BY age DESC, name LIMIT 3",
    "SELECT AVG(visitors), MAX(year) FROM concert WHERE NOT title IS NULL",
    "SELECT DISTINCT singer.country FROM singer JOIN concert ON singer.singer_id = concert.singer_id",
]


@pytest.mark.parametrize("sql", QUERIES)
def test_rewritten_chains_have_the_same_rows(sql, music):
    """Up to three rewrites on top of each other, on rows with NULLs and doubles."""
    connection, known = music
    chain = chain_of(sql, known)
    rows = connection.execute(sql).fetchall()
    seen = Counter()
    for links, _ in zip(alternatives(chain, known, random.Random(1)), range(60), strict=False):
        text = assemble(fragments(links))
        got = connection.execute(text).fetchall()
        assert results_equal(rows, got, ordered="ORDER BY" in sql), text
        seen[text] += 1
    assert len(seen) > 20 and assemble(fragments(chain)) not in seen


def test_same_seed_same_chains(music):
    chain = chain_of(QUERIES[2], music[1])
    once, again = (
        [
            fragments(c)
            for c, _ in zip(alternatives(chain, music[1], random.Random(5)), range(20), strict=False)
        ]
        for _ in range(2)
    )
    assert once == again


def test_every_kind_is_used_by_some_query(music):
    used = {
        kind
        for kind in [*REWRITES, *CHAIN_REWRITES]
        for sql in QUERIES
        if next(chain_rewrites(kind, chain_of(sql, music[1]), music[1], random.Random(0)), None)
    }
    assert len(used) >= 18
