"""Mutations as a table of SQL in -> SQL out, on a small database; how a chain follows a changed step."""

import random
import sqlite3
from collections import Counter

import pytest

from prm.sql.chain import Known, Link, known_at, links_of, outputs, respelled, tables_of, with_variant
from prm.sql.decompose import decompose, parse_fragment, render_fragment, to_sql
from prm.sql.describe import describe
from prm.sql.mutate import CATEGORIES, FAILING, chain_variants, variants
from prm.sql.schema import read_schema

DDL = """
CREATE TABLE singer (singer_id INTEGER PRIMARY KEY, name TEXT, country TEXT, age INTEGER, net_worth REAL);
CREATE TABLE concert (concert_id INTEGER PRIMARY KEY, title TEXT, year INTEGER, visitors INTEGER,
    singer_id INTEGER REFERENCES singer(singer_id), opener_id INTEGER REFERENCES singer(singer_id));
CREATE TABLE festival (festival_id INTEGER PRIMARY KEY, title TEXT, year INTEGER,
    singer_id INTEGER REFERENCES singer(singer_id));
"""
VALUES = {
    ("singer", "country"): [("France", 4), ("Spain", 3), ("Italy", 2)],
    ("singer", "name"): [("Joe Sharp", 1), ("Tribal King", 1)],
    ("singer", "age"): [(25, 2), (30, 1), (41, 1)],
    ("concert", "year"): [(2014, 5), (2015, 3)],
}


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    path = tmp_path_factory.mktemp("mutate") / "music.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(DDL)
        connection.execute("INSERT INTO singer VALUES (1, 'Joe Sharp', 'France', 25, 1.5)")
    connection.close()
    schema = read_schema(path)
    return Known(tables_of(schema), links_of(schema), lambda table, column: VALUES.get((table, column), []))


def all_variants(category, sql, known, seeds=20):
    """Every variant that some seed gives: what is possible, whatever chance prefers."""
    _, tree = parse_fragment(sql)
    found = set()
    for seed in range(seeds):
        found |= {to_sql(v) for v in variants(category, tree, known, random.Random(seed))}
    assert to_sql(tree) == to_sql(parse_fragment(sql)[1]), "the tree that was given has been changed"
    assert all(child.parent is node for node in tree.walk() for child in node.iter_expressions()), sql
    return found


WHERE_AGE = "SELECT name FROM singer WHERE age > 30"
JOIN = (
    "SELECT singer.name, concert.year FROM singer JOIN concert ON singer.singer_id = concert.singer_id "
    "WHERE concert.year = 2014"
)
GROUPED = "SELECT country, COUNT(*) FROM singer GROUP BY country HAVING COUNT(*) > 1"
OLDER = "SELECT name FROM singer WHERE age > (SELECT AVG(age) FROM singer) AND country = 'Spain'"
UNHEARD = "SELECT name FROM singer WHERE singer_id NOT IN (SELECT singer_id FROM concert WHERE year = 2014)"

TABLE = [
    ("column", WHERE_AGE, "SELECT country FROM singer WHERE age > 30"),
    ("column", "SELECT AVG(age) FROM singer", "SELECT AVG(net_worth) FROM singer"),
    ("column", JOIN, JOIN.replace("singer.name,", "concert.title,")),
    ("extra_column", "SELECT name FROM singer ORDER BY age", "SELECT name, age FROM singer ORDER BY age"),
    ("extra_column", WHERE_AGE, "SELECT name, singer_id FROM singer WHERE age > 30"),
    ("missing_column", "SELECT name, age FROM singer", "SELECT name FROM singer"),
    ("table", "SELECT title FROM concert WHERE year > 2", "SELECT title FROM festival WHERE year > 2"),
    (
        "table",
        "SELECT concert.title FROM concert JOIN singer ON concert.singer_id = singer.singer_id",
        "SELECT festival.title FROM festival JOIN singer ON festival.singer_id = singer.singer_id",
    ),
    ("join_key", JOIN, JOIN.replace("= concert.singer_id", "= concert.opener_id")),
    ("join_key", JOIN, JOIN.replace("= concert.singer_id", "= concert.concert_id")),
    ("join_kind", JOIN, JOIN.replace("JOIN", "LEFT JOIN")),
    ("join_kind", JOIN.replace("JOIN", "LEFT JOIN"), JOIN),
    (
        "join_missing",
        "SELECT singer.name FROM singer JOIN concert ON singer.singer_id = concert.singer_id",
        "SELECT singer.name FROM singer",
    ),
    (
        "join_missing",
        "SELECT concert.title FROM singer JOIN concert ON singer.singer_id = concert.singer_id",
        "SELECT concert.title FROM concert",
    ),
    ("condition_column", WHERE_AGE, "SELECT name FROM singer WHERE net_worth > 30"),
    ("comparison", WHERE_AGE, "SELECT name FROM singer WHERE age >= 30"),
    ("comparison", WHERE_AGE, "SELECT name FROM singer WHERE age < 30"),
    ("comparison", WHERE_AGE.replace(">", "<="), WHERE_AGE.replace(">", "<")),
    ("comparison", WHERE_AGE.replace(">", "<>"), WHERE_AGE.replace(">", "=")),
    ("comparison", WHERE_AGE.replace(">", "="), WHERE_AGE.replace(">", ">=")),
    ("value", WHERE_AGE, "SELECT name FROM singer WHERE age > 29"),
    ("value", WHERE_AGE, "SELECT name FROM singer WHERE age > 40"),
    ("value", WHERE_AGE, "SELECT name FROM singer WHERE age > 41"),
    (
        "value",
        "SELECT name FROM singer WHERE net_worth < 0.5",
        "SELECT name FROM singer WHERE net_worth < 0.4",
    ),
    ("value", "SELECT name FROM singer WHERE age = -1", "SELECT name FROM singer WHERE age = -2"),
    (
        "value",
        "SELECT age FROM singer WHERE country = 'France'",
        "SELECT age FROM singer WHERE country = 'Spain'",
    ),
    (
        "data_format",
        "SELECT age FROM singer WHERE country = 'France'",
        "SELECT age FROM singer WHERE country = 'france'",
    ),
    (
        "value",
        "SELECT age FROM singer WHERE name = 'Joe Sharp'",
        "SELECT age FROM singer WHERE name = 'Sharp'",
    ),
    (
        "value",
        "SELECT name FROM singer WHERE age BETWEEN 20 AND 30",
        "SELECT name FROM singer WHERE age BETWEEN 20 AND 31",
    ),
    (
        "value",
        "SELECT title FROM concert WHERE title > '2014-05-01'",
        "SELECT title FROM concert WHERE title > '2015-05-01'",
    ),
    ("condition_missing", WHERE_AGE, "SELECT name FROM singer"),
    (
        "condition_missing",
        "SELECT COUNT(*) FILTER(WHERE age > 3) FROM singer",
        "SELECT COUNT(*) FROM singer",
    ),
    (
        "condition_missing",
        "SELECT COUNT(*) FILTER(WHERE age > 3 AND country = 'Spain') FROM singer",
        "SELECT COUNT(*) FILTER(WHERE country = 'Spain') FROM singer",
    ),
    (
        "condition_missing",
        "SELECT name FROM singer WHERE (age > 3 OR country = 'Spain') AND name <> 'Joe'",
        "SELECT name FROM singer WHERE age > 3 OR country = 'Spain'",
    ),
    (
        "condition_missing",
        "SELECT name FROM singer WHERE NOT (age > 3 AND age < 9)",
        "SELECT name FROM singer",
    ),
    ("condition_extra", "SELECT name FROM singer", "SELECT name FROM singer WHERE country = 'Spain'"),
    ("condition_extra", "SELECT title FROM concert", "SELECT title FROM concert WHERE year > 2015"),
    (
        "condition_extra",
        "SELECT name FROM singer WHERE age > 3 OR age < 2",
        "SELECT name FROM singer WHERE (age > 3 OR age < 2) AND country = 'Spain'",
    ),
    (
        "logic",
        "SELECT name FROM singer WHERE age > 3 AND age < 9 AND country = 'Spain'",
        "SELECT name FROM singer WHERE (age > 3 OR age < 9) AND country = 'Spain'",
    ),
    (
        "logic",
        "SELECT name FROM singer WHERE age > 3 AND (age < 9 OR country = 'Spain')",
        "SELECT name FROM singer WHERE age > 3 AND age < 9 AND country = 'Spain'",
    ),
    (
        "negation",
        "SELECT name FROM singer WHERE age IN (1, 2)",
        "SELECT name FROM singer WHERE age NOT IN (1, 2)",
    ),
    (
        "negation",
        "SELECT name FROM singer WHERE age NOT IN (1, 2)",
        "SELECT name FROM singer WHERE age IN (1, 2)",
    ),
    (
        "negation",
        "SELECT name FROM singer WHERE name NOT LIKE 'a%'",
        "SELECT name FROM singer WHERE name LIKE 'a%'",
    ),
    (
        "negation",
        "SELECT name FROM singer WHERE age IS NULL",
        "SELECT name FROM singer WHERE age IS NOT NULL",
    ),
    (
        "like_pattern",
        "SELECT age FROM singer WHERE name LIKE '%oe%'",
        "SELECT age FROM singer WHERE name LIKE 'oe%'",
    ),
    ("aggregate", "SELECT MAX(age) FROM singer", "SELECT MIN(age) FROM singer"),
    ("aggregate", "SELECT AVG(age) FROM singer", "SELECT SUM(age) FROM singer"),
    ("aggregate", "SELECT COUNT(*) FROM concert", "SELECT SUM(visitors) FROM concert"),
    ("distinct", "SELECT country FROM singer", "SELECT DISTINCT country FROM singer"),
    ("distinct", "SELECT DISTINCT country FROM singer", "SELECT country FROM singer"),
    ("distinct", "SELECT COUNT(DISTINCT country) FROM singer", "SELECT COUNT(country) FROM singer"),
    ("distinct", "SELECT COUNT(country) FROM singer", "SELECT COUNT(DISTINCT country) FROM singer"),
    ("distinct", "SELECT COUNT(*) FROM singer", "SELECT COUNT(DISTINCT country) FROM singer"),
    ("group_key", GROUPED, GROUPED.replace("country", "name")),
    ("group_key", GROUPED, GROUPED.replace("GROUP BY country", "GROUP BY name")),
    (
        "group_missing",
        "SELECT country, COUNT(*) FROM singer GROUP BY country",
        "SELECT country, COUNT(*) FROM singer",
    ),
    ("group_extra", GROUPED, GROUPED.replace("GROUP BY country", "GROUP BY country, age")),
    ("condition_missing", GROUPED, GROUPED.replace(" HAVING COUNT(*) > 1", "")),
    ("having", GROUPED, GROUPED.replace("> 1", ">= 1")),
    ("having", GROUPED, GROUPED.replace("> 1", "> 2")),
    ("arithmetic", "SELECT age - net_worth FROM singer", "SELECT net_worth - age FROM singer"),
    ("arithmetic", "SELECT age - (net_worth + 1) FROM singer", "SELECT age - net_worth FROM singer"),
    (
        "arithmetic",
        "SELECT 100.0 * COUNT(*) / SUM(age) FROM singer",
        "SELECT COUNT(*) / SUM(age) FROM singer",
    ),
    (
        "arithmetic",
        "SELECT 100.0 * SUM(net_worth) / SUM(age) FROM singer",
        "SELECT SUM(age) / (100.0 * SUM(net_worth)) FROM singer",
    ),
    ("order_direction", "SELECT name FROM singer ORDER BY age", "SELECT name FROM singer ORDER BY age DESC"),
    ("order_direction", "SELECT name FROM singer ORDER BY age DESC", "SELECT name FROM singer ORDER BY age"),
    ("order_key", "SELECT name FROM singer ORDER BY age", "SELECT name FROM singer ORDER BY net_worth"),
    ("order_missing", "SELECT name FROM singer ORDER BY age, name", "SELECT name FROM singer"),
    ("order_missing", "SELECT name FROM singer ORDER BY age, name", "SELECT name FROM singer ORDER BY age"),
    ("limit", "SELECT name FROM singer ORDER BY age LIMIT 3", "SELECT name FROM singer ORDER BY age LIMIT 2"),
    ("limit_missing", "SELECT name FROM singer ORDER BY age LIMIT 3", "SELECT name FROM singer ORDER BY age"),
    ("limit_extra", "SELECT name FROM singer ORDER BY age", "SELECT name FROM singer ORDER BY age LIMIT 1"),
    (
        "set_operation",
        "SELECT title FROM concert EXCEPT SELECT title FROM festival",
        "SELECT title FROM festival EXCEPT SELECT title FROM concert",
    ),
    (
        "set_operation",
        "SELECT title FROM concert UNION SELECT title FROM festival",
        "SELECT title FROM concert UNION ALL SELECT title FROM festival",
    ),
    (
        "set_operation",
        "SELECT title FROM concert INTERSECT SELECT title FROM festival",
        "SELECT title FROM concert UNION SELECT title FROM festival",
    ),
    (
        "join_extra",
        "SELECT name FROM singer WHERE age > 3",
        "SELECT singer.name FROM singer JOIN concert ON singer.singer_id = concert.singer_id "
        "WHERE singer.age > 3",
    ),
    (
        "data_format",
        "SELECT title FROM concert WHERE title > '2014-05-01'",
        "SELECT title FROM concert WHERE title > '05/01/2014'",
    ),
    (
        "data_format",
        "SELECT name FROM singer WHERE net_worth > 20",
        "SELECT name FROM singer WHERE net_worth > 0.2",
    ),
    (
        "like_pattern",
        "SELECT age FROM singer WHERE name LIKE '%oe%'",
        "SELECT age FROM singer WHERE name = '%oe%'",
    ),
    (
        "implicit_condition_missing",
        "SELECT name FROM singer WHERE NOT age IS NULL AND country = 'Spain'",
        "SELECT name FROM singer WHERE country = 'Spain'",
    ),
    (
        "implicit_condition_missing",
        "SELECT a.name FROM singer AS a JOIN singer AS b ON a.age = b.age WHERE a.singer_id <> b.singer_id",
        "SELECT a.name FROM singer AS a JOIN singer AS b ON a.age = b.age",
    ),
    ("subquery_missing", OLDER, "SELECT name FROM singer WHERE country = 'Spain'"),
    ("subquery_missing", OLDER, OLDER.replace("(SELECT AVG(age) FROM singer)", "30")),
    ("subquery", OLDER, OLDER.replace("AVG(age)", "AVG(net_worth)")),
    ("subquery", OLDER, OLDER.replace("AVG(age)", "MIN(age)")),
    ("subquery", UNHEARD, UNHEARD.replace("FROM concert", "FROM festival")),
    ("subquery", UNHEARD, UNHEARD.replace(" WHERE year = 2014", "")),
    (
        "partial_query",
        "SELECT title FROM concert WHERE year = 2014 UNION SELECT title FROM festival",
        "SELECT title FROM concert WHERE year = 2014",
    ),
    (
        "conditional",
        "SELECT SUM(CASE WHEN age > 3 THEN 1 ELSE 0 END) FROM singer",
        "SELECT COUNT(CASE WHEN age > 3 THEN 1 ELSE 0 END) FROM singer",
    ),
    (
        "conditional",
        "SELECT SUM(CASE WHEN age > 3 THEN 1 ELSE 0 END) FROM singer",
        "SELECT SUM(CASE WHEN age > 3 THEN 0 ELSE 1 END) FROM singer",
    ),
    (
        "conditional",
        "SELECT COUNT(*) FROM singer WHERE age > 3",
        "SELECT COUNT(CASE WHEN age > 3 THEN 1 ELSE 0 END) FROM singer",
    ),
    ("conditional", "SELECT AVG(age) FROM singer", "SELECT AVG(COALESCE(age, 0)) FROM singer"),
    (
        "conversion",
        "SELECT CAST(COUNT(*) AS REAL) / SUM(age) FROM singer",
        "SELECT COUNT(*) / SUM(age) FROM singer",
    ),
    ("conversion", "SELECT AVG(net_worth) FROM singer", "SELECT AVG(CAST(net_worth AS INTEGER)) FROM singer"),
    (
        "conversion",
        "SELECT name FROM singer ORDER BY age DESC",
        "SELECT name FROM singer ORDER BY CAST(age AS TEXT) DESC",
    ),
    (
        "date_time",
        "SELECT title FROM concert WHERE year = 2014",
        "SELECT title FROM concert WHERE STRFTIME('%Y', year) = 2014",
    ),
    (
        "date_time",
        "SELECT COUNT(*) FROM concert WHERE STRFTIME('%Y', title) = '2014'",
        "SELECT COUNT(*) FROM concert WHERE STRFTIME('%m', title) = '2014'",
    ),
    ("rounding", "SELECT AVG(age) FROM singer", "SELECT ROUND(AVG(age)) FROM singer"),
    ("rounding", "SELECT ROUND(AVG(age), 2) FROM singer", "SELECT AVG(age) FROM singer"),
    ("rounding", "SELECT ABS(age - 3) FROM singer", "SELECT age - 3 FROM singer"),
    (
        "string_function",
        "SELECT name FROM singer ORDER BY name",
        "SELECT name FROM singer ORDER BY LENGTH(name)",
    ),
    ("string_function", "SELECT name, country FROM singer", "SELECT name || country FROM singer"),
    (
        "string_function",
        "SELECT SUBSTR(name, 1, 3) FROM singer",
        "SELECT SUBSTR(name, 1, 2) FROM singer",
    ),
    (
        "window",
        "SELECT country, COUNT(*) FROM singer GROUP BY country",
        "SELECT country, COUNT(*) OVER (PARTITION BY country) FROM singer",
    ),
    (
        "window",
        "SELECT name, RANK() OVER (PARTITION BY country ORDER BY age) FROM singer",
        "SELECT name, RANK() OVER (ORDER BY age) FROM singer",
    ),
    (
        "window",
        "SELECT name, RANK() OVER (PARTITION BY country ORDER BY age) FROM singer",
        "SELECT name, ROW_NUMBER() OVER (PARTITION BY country ORDER BY age) FROM singer",
    ),
    ("group_extra", "SELECT COUNT(*) FROM singer", "SELECT COUNT(*) FROM singer GROUP BY country"),
    ("unknown_column", WHERE_AGE, WHERE_AGE.replace("age", "ages")),
    ("unknown_column", WHERE_AGE, WHERE_AGE.replace("name", "singer_name")),
    ("unknown_column", WHERE_AGE, WHERE_AGE.replace("name", "title")),
    ("unknown_table", WHERE_AGE, WHERE_AGE.replace("singer", "singers")),
    (
        "unknown_table",
        JOIN,
        JOIN.replace("concert.", "concerts.").replace("JOIN concert", "JOIN concerts"),
    ),
    ("ambiguous_column", JOIN, JOIN.replace("= concert.singer_id", "= singer_id")),
    ("aggregate_misuse", WHERE_AGE, "SELECT name FROM singer WHERE MAX(age) > 30"),
    ("aggregate_misuse", OLDER, OLDER.replace("(SELECT AVG(age) FROM singer)", "AVG(age)")),
    (
        "aggregate_misuse",
        "SELECT name FROM singer ORDER BY age DESC LIMIT 1",
        "SELECT name FROM singer WHERE age = MAX(age)",
    ),
    (
        "unknown_function",
        "SELECT title FROM concert WHERE year > 2",
        "SELECT title FROM concert WHERE YEAR(year) > 2",
    ),
]


@pytest.mark.parametrize(("category", "sql", "expected"), TABLE, ids=lambda x: x if x in CATEGORIES else "")
def test_table(category, sql, expected, known):
    assert to_sql(parse_fragment(expected)[1]) in all_variants(category, sql, known)


def test_every_category_is_in_the_table():
    assert {category for category, _, _ in TABLE} == set(CATEGORIES)


ABSURD = [
    ("aggregate", "SELECT COUNT(*) FROM singer", "SUM(singer_id)"),  # identifiers are never summed
    ("column", "SELECT AVG(age) FROM singer", "AVG(name)"),
    ("column", "SELECT name, age FROM singer", "age, age"),  # nothing is shown twice
    (
        "comparison",
        "SELECT name FROM singer WHERE singer_id = 3",
        "singer_id >",
    ),  # nobody asks for ids above 3
    ("comparison", JOIN, "singer.singer_id >"),  # what joins is no condition on values
    ("condition_column", "SELECT age FROM singer WHERE country = 'France'", "name = 'France'"),
    ("condition_extra", "SELECT age FROM singer", "name ="),  # every name is there once: no class of singers
    ("condition_missing", JOIN, "FROM singer JOIN concert WHERE"),
    ("join_key", JOIN, "concert.title"),
    ("extra_column", "SELECT COUNT(*) FROM singer", "name"),  # not beside an aggregate over all rows
    ("value", "SELECT name FROM singer WHERE age > 1", "age > 0"),
    ("distinct", "SELECT COUNT(1) FROM singer", "COUNT(DISTINCT 1)"),
    ("group_key", "SELECT country, AVG(age) FROM singer GROUP BY country", "GROUP BY age"),
    ("negation", "SELECT name FROM singer WHERE NOT singer_id IS NULL", "singer_id IS NULL"),
    # nobody takes a count for a name
    ("column", "SELECT name FROM (SELECT name, COUNT(*) AS n FROM singer GROUP BY name) AS t", "SELECT n"),
]


@pytest.mark.parametrize(("category", "sql", "part"), ABSURD)
def test_absurd_variants_are_not_made(category, sql, part, known):
    assert not [v for v in all_variants(category, sql, known) if part in v]


def test_variants_run_or_fail_as_their_kind_says_and_can_be_described(known, tmp_path):
    """SQLite refuses every variant of the failing kinds and no other; and the sentences differ."""
    with sqlite3.connect(tmp_path / "music.sqlite") as connection:
        connection.executescript(DDL)
        checked, refused = Counter(), {}
        for sql in sorted({sql for _, sql, _ in TABLE}):
            _, tree = parse_fragment(sql)
            for category in CATEGORIES:
                for variant in variants(category, tree, known, random.Random(0)):
                    text = to_sql(variant)
                    try:
                        connection.execute(text)
                        ran = True
                    except sqlite3.OperationalError as error:
                        ran = False
                        refused.setdefault(category, []).append((text, str(error)))
                    assert ran == (category not in FAILING), (category, text, refused.get(category))
                    assert describe(variant) != describe(tree), text
                    checked[category] += 1
        assert set(checked) == set(CATEGORIES) and checked.total() > 1000
    connection.close()


#: What NL2SQL-BUGs distinguishes (Liu et al. 2025, table of error types).
SUBTYPES = {
    "Attribute-Related Errors": {"Attribute Mismatch", "Attribute Missing", "Attribute Redundancy"},
    "Table-Related Errors": {
        "Table Mismatch", "Table Missing", "Table Redundancy", "Join Condition Mismatch",
        "Join Type Mismatch",
    },
    "Value-Related Errors": {"Value Mismatch", "Data Format Mismatch"},
    "Operator-Related Errors": {"Comparison Operator Mismatch", "Logical Operator Mismatch"},
    "Condition-Related Errors": {
        "Explicit Condition Missing", "Explicit Condition Mismatch", "Explicit Condition Redundancy",
        "Implicit Condition Missing",
    },
    "Function-Related Errors": {
        "Aggregate Functions", "Window Functions", "Date/Time Functions", "Conversion Functions",
        "Math Functions", "String Functions", "Conditional Functions",
    },
    "Clause-Related Errors": {"Clause Missing", "Clause Redundancy"},
    "Subquery-Related Errors": {"Subquery Missing", "Subquery Mismatch", "Partial Query"},
    "Other Errors": {"ASC/DESC", "DISTINCT", "Other"},
}  # fmt: skip


def test_every_subtype_of_nl2sql_bugs_is_covered():
    covered = {}
    for kind, subtype in CATEGORIES.values():
        covered.setdefault(kind, set()).add(subtype)
    assert covered == SUBTYPES


def test_a_chain_may_end_early(known):
    """`partial_query`: what step 0 finds is taken for the answer; its column has no name of ours then."""
    chain = chain_of("SELECT name FROM singer WHERE age > (SELECT AVG(age) FROM singer)", known)
    made = [fragments(c) for c in chain_variants("partial_query", chain, 0, known, random.Random(0))]
    assert made == [["SELECT AVG(age) FROM singer"]]
    assert list(chain_variants("partial_query", chain, 1, known, random.Random(0))) == []
    arms = chain_of(
        "SELECT title FROM concert WHERE year > 3 UNION SELECT title FROM festival WHERE year > 4", known
    )
    assert len(arms) == 3
    made = [fragments(c) for c in chain_variants("partial_query", arms, 0, known, random.Random(0))]
    assert made == [["SELECT title FROM concert WHERE year > 3"]]
    # The second arm alone would leave the first one behind, read by nobody.
    assert list(chain_variants("partial_query", arms, 1, known, random.Random(0))) == []


def test_same_seed_same_variants(known):
    _, tree = parse_fragment(JOIN)
    once, again = (
        [to_sql(v) for c in CATEGORIES for v in variants(c, tree, known, random.Random(7))] for _ in range(2)
    )
    assert once == again and len(once) > 20


def test_outputs_expand_stars_and_know_where_columns_come_from(known):
    _, tree = parse_fragment("SELECT concert.*, MAX(singer.age) AS oldest FROM concert JOIN singer")
    columns = outputs(tree, known)
    assert [c.name for c in columns] == [
        "concert_id", "title", "year", "visitors", "singer_id", "opener_id", "oldest",
    ]  # fmt: skip
    assert columns[2].origin == ("concert", "year") and columns[2].kind == "number" and not columns[2].key
    assert columns[4].key and columns[6].kind == "number" and columns[6].origin is None


def test_a_derived_table_does_not_read_the_tables_beside_it(known):
    """Else a column that it has not got would be looked for in itself, and so without end."""
    _, tree = parse_fragment(
        "SELECT title, gone FROM (SELECT age AS title, gone FROM singer) AS s JOIN concert"
    )
    named = {column.name: column.origin for column in outputs(tree, known)}
    assert named == {"title": ("singer", "age"), "gone": None}


def chain_of(sql, known):
    tables = {r.name: [a.name for a in r.attributes] for r in known.relations.values()}
    return respelled([Link(*parse_fragment(step.sql)) for step in decompose(sql, tables)], known)


def fragments(chain):
    return [render_fragment(link.name, link.tree) for link in chain]


def test_respelled_takes_the_schemas_spelling_and_qualifies_joins(known):
    chain = chain_of(
        "SELECT NAME, Title FROM SINGER JOIN Concert ON SINGER.Singer_ID = Concert.singer_ID", known
    )
    assert fragments(chain) == [
        "SELECT singer.name, concert.title FROM singer JOIN concert ON singer.singer_id = concert.singer_id"
    ]


MOST = "SELECT country FROM singer GROUP BY country HAVING avg(age) > 30 ORDER BY avg(age) DESC"


def test_later_steps_follow_the_names_of_a_changed_step(known):
    """The names of step and column say what is in them now, not what should be."""
    chain = chain_of(MOST, known)
    assert fragments(chain) == [
        "avg_age_per_country AS (SELECT country, AVG(age) AS avg_age FROM singer GROUP BY country)",
        "SELECT country FROM avg_age_per_country WHERE avg_age > 30 ORDER BY avg_age DESC",
    ]
    _, variant = parse_fragment("SELECT country, MAX(age) AS avg_age FROM singer GROUP BY country")
    assert fragments(with_variant(chain, 0, variant, known)) == [
        "max_age_per_country AS (SELECT country, MAX(age) AS max_age FROM singer GROUP BY country)",
        "SELECT country FROM max_age_per_country WHERE max_age > 30 ORDER BY max_age DESC",
    ]
    _, variant = parse_fragment("SELECT name, AVG(age) AS avg_age FROM singer GROUP BY name")
    assert fragments(with_variant(chain, 0, variant, known)) == [
        "avg_age_per_name AS (SELECT name, AVG(age) AS avg_age FROM singer GROUP BY name)",
        "SELECT name FROM avg_age_per_name WHERE avg_age > 30 ORDER BY avg_age DESC",
    ]


@pytest.mark.parametrize(
    ("before", "after", "alias"),
    [
        ("AVG(age) AS avg_age", "MAX(age) AS avg_age", "max_age"),  # would say what should have been computed
        ("AVG(age) AS average", "MAX(age) AS average", "max_age"),
        ("COUNT(*) AS singers", "SUM(age) AS singers", "singers"),
        ("SUM(age) / COUNT(*) AS ratio", "COUNT(*) / SUM(age) AS ratio", "ratio"),
        ("name AS who", "country AS who", "who"),
        ("name AS singer_name", "country AS singer_name", None),
    ],
)
def test_an_alias_stays_if_it_does_not_contradict(before, after, alias, known):
    chain = chain_of(f"SELECT {before} FROM singer", known)
    changed = with_variant(chain, 0, parse_fragment(f"SELECT {after} FROM singer")[1], known)
    expression = after.split(" AS ")[0]
    wanted = f"SELECT {expression} AS {alias} FROM singer" if alias else f"SELECT {expression} FROM singer"
    assert fragments(changed) == [wanted]


def test_names_of_the_querys_author_stay(known):
    chain = chain_of(
        "WITH best AS (SELECT name, age FROM singer WHERE age > 30) SELECT name FROM best", known
    )
    changed = with_variant(chain, 0, parse_fragment("SELECT name, age FROM singer WHERE age > 31")[1], known)
    assert fragments(changed)[0] == "best AS (SELECT name, age FROM singer WHERE age > 31)"
    assert changed[1] is chain[1]


def test_a_step_like_another_one_is_not_made(known):
    chain = chain_of("SELECT title FROM concert UNION SELECT title FROM festival", known)
    _, variant = parse_fragment("SELECT title FROM festival")
    assert with_variant(chain, 0, variant, known) is None


def test_no_step_is_left_that_only_hands_on(known):
    """Dropping the only work of a step in the middle would leave a shape that no right chain has."""
    chain = chain_of("SELECT AVG(age) FROM singer WHERE country = 'France'", known)
    assert len(chain) == 2
    first = known_at(chain, 0, known)
    assert list(variants("condition_missing", chain[0].tree, first, random.Random(0))) == []
    last = known_at(chain, 1, known)
    assert [to_sql(v) for v in variants("aggregate", chain[1].tree, last, random.Random(0))]
