"""Sentences: what they say, that they leave nothing out, and that different SQL gives different sentences."""

from __future__ import annotations

import itertools
import re

import pytest
import sqlglot
from sqlglot import exp

from prm.sql.describe import describe


def parse(sql: str) -> exp.Expression:
    return sqlglot.parse_one(sql, dialect="sqlite")


#: SQL -> its sentence
SENTENCES = {
    "SELECT COUNT(*) FROM singer": "From singer; return the number of rows.",
    "SELECT name, age FROM singer WHERE age > 30 ORDER BY age DESC LIMIT 1": (
        "From singer, keep rows where age is greater than 30; return name and age; sort by age, highest "
        "first; keep "
        "only the first 1 row."
    ),
    "SELECT singer.name FROM singer JOIN concert ON singer.id = concert.singer_id WHERE concert.year <= "
    "2014": (
        "From singer joined with concert on singer.id equals concert.singer_id, keep rows where "
        "concert.year is at "
        "most 2014; return singer.name."
    ),
    "SELECT a.x FROM t AS a LEFT JOIN t AS b ON a.id = b.up, u": (
        "From t as a left joined with t as b on a.id equals b.up combined with u; return a.x."
    ),
    "SELECT * FROM a NATURAL JOIN b JOIN c USING (x, y) CROSS JOIN d": (
        "From a natural joined with b joined with c using the same x and y combined with d; return all "
        "columns."
    ),
    "SELECT country, COUNT(DISTINCT name) AS n FROM singer GROUP BY country HAVING COUNT(*) >= 2": (
        "From singer; group by country; keep groups where the number of rows is at least 2; return "
        "country and the "
        "count of distinct name as n."
    ),
    "SELECT DISTINCT a FROM t WHERE (a = 1 OR b <> 'x') AND c IS NOT NULL AND NOT d LIKE '%y'": (
        "From t, keep rows where (a equals 1 or b is not equal to 'x') and c is not null and d is not "
        "like '%y'; "
        "return distinct a."
    ),
    "SELECT a FROM t WHERE a NOT IN (1, 2) OR b BETWEEN 3 AND -4 AND c IN (SELECT d FROM u)": (
        "From t, keep rows where a is not one of (1, 2) or (b is between 3 and -4 and c is in (d from "
        "u)); return a."
    ),
    "SELECT a FROM t WHERE b > (SELECT avg_b FROM m) AND NOT EXISTS (SELECT 1 FROM u WHERE u.x = t.x)": (
        "From t, keep rows where b is greater than (avg_b from m) and there is no row in (from u, keep "
        "rows where u.x "
        "equals t.x; return 1); return a."
    ),
    "SELECT a - (b - c), (a + b) * 2 / SUM(c), CAST(SUM(c) AS REAL), SUM(CAST(c AS REAL)) FROM t": (
        "From t; return a minus (b minus c), ((a plus b) times 2) divided by the sum of c, the sum of c "
        "cast to REAL "
        "and the sum of (c cast to REAL)."
    ),
    "SELECT CASE WHEN a = 1 THEN 'x' WHEN b THEN c ELSE 0 END, IIF(a > 1, b, c) FROM t": (
        "From t; return case when a equals 1 then 'x' when b then c otherwise 0 end and (b if a is "
        "greater than 1 "
        "else c)."
    ),
    "SELECT ROUND(a * 2, 1), STRFTIME('%Y', d), COALESCE(a, b) FROM t": (
        "From t; return ROUND(a times 2, 1), STRFTIME('%Y', d) and COALESCE(a, b)."
    ),
    "SELECT COUNT(*) FILTER (WHERE a = 1 OR b > 2), COUNT(DISTINCT a) FILTER (WHERE b > 1) * 2 FROM t": (
        "From t; return the number of rows only where (a equals 1 or b is greater than 2) and (the count of "
        "distinct a only where (b is greater than 1)) times 2."
    ),
    "SELECT RANK() OVER (PARTITION BY a ORDER BY b DESC), SUM(x) FILTER (WHERE y > 1) FROM t": (
        "From t; return RANK() over (each a; sorted by b, highest first) and the sum of x only where (y "
        "is greater "
        "than 1)."
    ),
    "SELECT a FROM t EXCEPT SELECT a FROM u": "Take a from t except those in u.",
    "SELECT a FROM t UNION SELECT a FROM u UNION SELECT b FROM v": (
        "Take a from t together with u together with b from v, without duplicates."
    ),
    "SELECT a FROM t UNION ALL SELECT a FROM u EXCEPT SELECT a FROM v": (
        "Take (take a from t together with u, keeping duplicates) except those in a from v."
    ),
    "SELECT a FROM t INTERSECT SELECT b FROM u ORDER BY a LIMIT 3 OFFSET 2": (
        "Take a from t that are also in b from u; sort by a, lowest first; keep only the first 3 rows "
        "after skipping 2."
    ),
    "SELECT a FROM t UNION ALL SELECT a FROM u WHERE b = 1": (
        "Take a from t together with (from u, keep rows where b equals 1; return a), keeping duplicates."
    ),
    "SELECT MAX(n) FROM (SELECT COUNT(*) AS n FROM t GROUP BY a) AS x": (
        "From (from t; group by a; return the number of rows as n) as x; return the maximum of n."
    ),
    "SELECT a FROM t ORDER BY a DESC NULLS FIRST, b COLLATE NOCASE": (
        "From t; return a; sort by a, highest first but nulls first, then by b under NOCASE collation, "
        "lowest first."
    ),
    "SELECT 1 + 1, 'a' || b": "Return 1 plus 1 and 'a' concatenated with b.",
}


@pytest.mark.parametrize("sql", SENTENCES)
def test_sentence(sql):
    assert describe(parse(sql)) == SENTENCES[sql]


def test_the_name_stands_at_the_end():
    assert describe(parse("SELECT a FROM t"), "first_step") == "From t; return a; call it first_step."


#: every operator -> a word that its sentence has, and that no sentence without it needs
WORDS = {
    exp.EQ: "equals",
    exp.NEQ: "not equal",
    exp.GT: "greater than",
    exp.GTE: "at least",
    exp.LT: "less than",
    exp.LTE: "at most",
    exp.Like: "like",
    exp.Glob: "glob",
    exp.Between: "between",
    exp.Add: "plus",
    exp.Sub: "minus",
    exp.Mul: "times",
    exp.Div: "divided by",
    exp.Mod: "modulo",
    exp.DPipe: "concatenated",
    exp.And: " and ",
    exp.Or: " or ",
    exp.Sum: "sum",
    exp.Avg: "average",
    exp.Min: "minimum",
    exp.Max: "maximum",
    exp.Distinct: "distinct",
    exp.Case: "case",
    exp.Exists: "there is",
    exp.Union: "together with",
    exp.Intersect: "also in",
    exp.Except: "except",
    exp.Group: "group by",
    exp.Having: "keep groups where",
    exp.Where: "where",
    exp.Order: "by",
    exp.Limit: "only the first",
    exp.Offset: "skipping",
    exp.Window: "over",
    exp.Cast: "cast to",
    exp.Collate: "under",
}

QUERIES = [
    *SENTENCES,
    "SELECT T1.a, T1.*, MIN(b), AVG(c % 2) FROM t AS T1 RIGHT JOIN u AS T2 ON T1.k = T2.k AND T2.z < 7 "
    "WHERE (T1.p OR NOT T1.q) AND T2.r GLOB 'x*' GROUP BY T1.a, b % 3 HAVING AVG(c) <= 4.50 OR MIN(b) IS "
    "NULL",
    'SELECT "net worth", [song list].x FROM "song list" WHERE "order" = \'it\'\'s\' ORDER BY "net worth"',
    "WITH a AS (SELECT x FROM t WHERE y = 1), b AS (SELECT z FROM a) SELECT * FROM a JOIN b ON a.x = b.z "
    "LIMIT 5",
    "SELECT a FROM t WHERE (x, y) IN (SELECT p, MAX(q) FROM u GROUP BY p) AND EXISTS (SELECT * FROM v)",
    "SELECT ROUND(100.0 * SUM(CASE WHEN a = 'x' AND b > 2 THEN 1 ELSE 0 END) / COUNT(*), 2) AS share FROM t",
    "SELECT SUBSTR(UPPER(a || '-' || b), 1, 3), LENGTH(c) + 1 FROM t WHERE DATE(d, '+1 day') >= '2020-01-01'",
    "SELECT a FROM t GROUP BY a ORDER BY COUNT(b) * 2 DESC, MAX(c) LIMIT 10 OFFSET 20",
    "SELECT a FROM t UNION SELECT b FROM u EXCEPT SELECT c FROM v WHERE d = 4 ORDER BY 1",
    "SELECT ROW_NUMBER() OVER (ORDER BY a), LAG(b, 2) OVER (PARTITION BY c ORDER BY d DESC) FROM t",
    "SELECT * FROM a LEFT JOIN (SELECT x, COUNT(*) AS n FROM b GROUP BY x HAVING COUNT(*) > 3) AS s ON "
    "a.x = s.x",
    "SELECT TYPEOF(a), TOTAL(b), GROUP_CONCAT(DISTINCT c), a & 1, a << 2, ~a, NOT a, -b FROM t",
    "SELECT CASE a WHEN 1 THEN 'one' END, NULLIF(a, 0), IFNULL(b, 'none') FROM t WHERE a LIKE 'x!%' "
    "ESCAPE '!'",
]


@pytest.mark.parametrize("sql", QUERIES)
def test_nothing_is_left_out(sql):
    tree = parse(sql)
    text = describe(tree)
    assert text[0].isupper() and text.endswith(".") and "\n" not in text
    for identifier in tree.find_all(exp.Identifier):
        assert re.search(rf"(?<!\w){re.escape(identifier.name)}(?!\w)", text, re.IGNORECASE), identifier.name
    for literal in tree.find_all(exp.Literal):
        assert literal.sql("sqlite") in text, literal
    for node in tree.walk():
        word = WORDS.get(type(node))
        assert word is None or word in text, word
    assert not re.search(r"[<>=+*/%|]", re.sub(r"'[^']*'", "", text)), "an operator's sign instead of a word"


@pytest.mark.parametrize("limit", ["LIMIT -1 OFFSET 2", "OFFSET 2"])
def test_rows_are_skipped_without_a_limit(limit):
    """SQLite has no OFFSET alone: it is written as LIMIT -1, which keeps all rows and not "the first -1"."""
    assert describe(parse(f"SELECT a FROM t {limit}")) == "From t; return a; skip the first 2 rows."


#: trees that say different things: within a row all sentences must differ
DIFFERENT = [
    [f"SELECT a FROM t WHERE a {sign} 1" for sign in ("=", "<>", "<", "<=", ">", ">=", "IS", "IS NOT",
        "LIKE", "GLOB")],
    [f"SELECT a FROM t WHERE {no}a LIKE {value}" for no in ("", "NOT ") for value in ("'x'", "'x%'", "x")],
    [f"SELECT a FROM t WHERE a {test}" for test in ("IS NULL", "IS NOT NULL", "= NULL", "IN (1, 2)",
        "NOT IN (1, 2)",
        "IN (1)", "BETWEEN 1 AND 2", "NOT BETWEEN 1 AND 2", "IN (SELECT a FROM u)",
        "NOT IN (SELECT a FROM u)",
        "= (SELECT a FROM u)", "IN (SELECT b FROM u)", "IN (SELECT a FROM t)", "= 1", "= '1'", "= 1.0")],
    [f"SELECT a FROM t WHERE {c}" for c in ("a = 1 AND b = 2 OR c = 3", "a = 1 AND (b = 2 OR c = 3)",
        "(a = 1 OR b = 2) AND c = 3", "a = 1 OR b = 2 OR c = 3", "a = 1 AND b = 2 AND c = 3",
        "a = 1 AND b = 2",
        "NOT (a = 1 AND b = 2)", "NOT a = 1 AND b = 2", "NOT (a = 1 OR b = 2)", "b = 2", "a = 2 AND b = 1")],
    [f"SELECT {what} FROM t" for what in ("COUNT(*)", "COUNT(a)", "COUNT(DISTINCT a)", "SUM(a)",
        "SUM(DISTINCT a)",
        "AVG(a)", "MIN(a)", "MAX(a)", "MAX(a, b)", "MAX(b)", "a", "DISTINCT a", "a, b", "b, a", "a AS b", "*",
        "TOTAL(a)", "COUNT(*) + 1", "COUNT(a + 1)", "COUNT(a) + 1", "ABS(a)", "ABS(-a)", "-ABS(a)", "1",
        "'a'")],
    [f"SELECT {what} FROM t" for what in ("a - b - c", "a - (b - c)", "a + b - c", "a - b + c", "(a - b) * c",
        "a - b * c", "a / b / c", "a / (b / c)", "a || b", "a % b", "-a", "a * -1", "CAST(a AS REAL) / b",
        "CAST(a / b AS REAL)", "CAST(a AS INTEGER) / b", "SUM(a) / b", "SUM(a / b)", "ROUND(SUM(a) / b, 1)",
        "ROUND(SUM(a) / b, 2)", "ROUND(SUM(a / b), 2)")],
    [f"SELECT a FROM t {kind} JOIN u {on}" for kind in ("", "LEFT", "RIGHT", "FULL", "NATURAL")
        for on in ([""] if kind == "NATURAL" else ["ON t.a = u.a", "ON t.a = u.b", "ON t.b = u.a",
        "ON t.a < u.a",
        "USING (a)"])] + ["SELECT a FROM t CROSS JOIN u ON t.a = u.a", "SELECT a FROM t", "SELECT a FROM u"],
    ["SELECT x.a FROM t AS x JOIN t AS y ON x.a = y.b", "SELECT y.a FROM t AS x JOIN t AS y ON x.a = y.b",
        "SELECT x.a FROM t AS x JOIN t AS y ON y.a = x.b", "SELECT x.a FROM t AS x JOIN u AS y ON x.a = y.b"],
    [f"SELECT a FROM t {tail}" for tail in ("", "ORDER BY a", "ORDER BY a DESC", "ORDER BY b",
        "ORDER BY a, b",
        "ORDER BY b, a", "ORDER BY a LIMIT 1", "ORDER BY a LIMIT 2", "LIMIT 1", "LIMIT 1 OFFSET 1",
        "GROUP BY a",
        "ORDER BY a NULLS LAST", "ORDER BY a DESC NULLS FIRST", "ORDER BY COUNT(*)", "ORDER BY COUNT(*) DESC",
        "GROUP BY b", "GROUP BY a, b", "GROUP BY a HAVING COUNT(*) > 1", "GROUP BY a HAVING COUNT(*) >= 1",
        "WHERE a > 1", "GROUP BY a HAVING a > 1", "GROUP BY a HAVING COUNT(b) > 1")],
    [f"SELECT {x} FROM t {op} SELECT {y} FROM u" for op in ("UNION", "UNION ALL", "INTERSECT", "EXCEPT")
        for x, y in (("a", "a"), ("a", "b"), ("b", "a"))] + ["SELECT a FROM u EXCEPT SELECT a FROM t",
        "SELECT a FROM t EXCEPT SELECT a FROM u ORDER BY a",
        "SELECT a FROM t EXCEPT SELECT a FROM u WHERE a = 1"],
    [f"SELECT CASE {c} END FROM t" for c in ("WHEN a = 1 THEN 2 ELSE 3", "WHEN a = 1 THEN 2",
        "WHEN a = 1 THEN 3 ELSE 2",
        "a WHEN 1 THEN 2 ELSE 3", "WHEN a > 1 THEN 2 ELSE 3", "WHEN a = 1 THEN 2 WHEN b = 1 THEN 4 ELSE 3")],
    [f"SELECT {w} FROM t" for w in ("SUM(a) OVER (PARTITION BY b)", "SUM(a) OVER (ORDER BY b)",
        "SUM(a) OVER ()",
        "SUM(a)", "SUM(a) OVER (PARTITION BY c)", "SUM(a) OVER (ORDER BY b DESC)",
        "SUM(a) FILTER (WHERE b > 1)",
        "SUM(a) OVER (ORDER BY b ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)", "AVG(a) OVER (PARTITION BY b)")],
    ["SELECT a FROM t WHERE EXISTS (SELECT 1 FROM u)", "SELECT a FROM t WHERE NOT EXISTS (SELECT 1 FROM u)",
        "SELECT a FROM t WHERE (SELECT 1 FROM u)", "SELECT a FROM t WHERE a > (SELECT AVG(a) FROM t)",
        "SELECT a FROM t WHERE a > (SELECT AVG(a) FROM t WHERE b = 1)",
        "SELECT a FROM t WHERE a > (SELECT count FROM c)",
        "SELECT a FROM t WHERE a > COUNT(c)", "SELECT a FROM (SELECT a FROM t) WHERE a > 1",
        "SELECT a FROM t"],
]  # fmt: skip


@pytest.mark.parametrize("row", DIFFERENT, ids=lambda row: row[0][:40])
def test_different_sql_gives_different_sentences(row):
    sentences = {sql: describe(parse(sql)) for sql in row}
    for one, other in itertools.combinations(sentences, 2):
        assert sentences[one] != sentences[other], (one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT a FROM t INNER JOIN u ON t.a = u.a", "SELECT a FROM t JOIN u ON t.a = u.a"),
        ("SELECT a FROM t LEFT OUTER JOIN u ON t.a = u.a", "SELECT a FROM t LEFT JOIN u ON t.a = u.a"),
        (
            "SELECT a FROM t WHERE (((a = 1))) AND (b = 2 AND c = 3)",
            "SELECT a FROM t WHERE a = 1 AND b = 2 AND c = 3",
        ),
        ("SELECT a FROM t WHERE NOT a IN (1)", "SELECT a FROM t WHERE a NOT IN (1)"),
        ("SELECT a FROM t CROSS JOIN u", "SELECT a FROM t, u"),
        ("SELECT a FROM t ORDER BY a ASC", "SELECT a FROM t ORDER BY a"),
    ],
)
def test_spellings_of_the_same_sql_give_the_same_sentence(one, other):
    assert describe(parse(one)) == describe(parse(other))


def test_describing_does_not_change_the_tree():
    for sql in QUERIES:
        tree = parse(sql)
        before = tree.copy()
        describe(tree, "x")
        assert tree == before
