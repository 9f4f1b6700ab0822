"""`prm build` from a folder to a trace file, on a database made here: what is promised of every trace."""

import csv
import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import sqlglot

from prm.cli import main
from prm.errors import InputError
from prm.labeling.build import build
from prm.labeling.chains import Ground, closeness, is_right, written
from prm.sql.chain import Link
from prm.sql.compare import is_ordered, results_equal
from prm.sql.database import Rows, SQLError, open_database
from prm.sql.decompose import assemble, decompose, parse_fragment
from prm.sql.mutate import CATEGORIES, FAILING
from prm.sql.variants import remake
from prm.traces.questions import read_questions
from prm.traces.trace import Trace

DDL = """
CREATE TABLE author (author_id INTEGER PRIMARY KEY, name TEXT, country TEXT, born INTEGER);
CREATE TABLE book (book_id INTEGER PRIMARY KEY, title TEXT, genre TEXT, price REAL, pages INTEGER,
    author_id INTEGER REFERENCES author(author_id));
"""
AUTHORS = [
    (1, "Ada Moor", "Ghana", 1950), (2, "Ben Holt", "Chile", 1962), (3, "Cleo Ray", "Ghana", 1971),
    (4, "Dan Ives", "Japan", 1962), (5, "Eve Lund", None, 1980), (6, "Fay Marsh", "Chile", 1955),
]  # fmt: skip
GENRES = ("novel", "poems", "essay")
BOOKS = [
    (i, f"Book {i % 17}", GENRES[i % 3], 5 + i * 7 % 23 / 2, 90 + i * 37 % 300, 1 + i * i % 5)
    for i in range(1, 41)
]  # fmt: skip
QUESTIONS = [
    ("How many authors are there?", "SELECT count(*) FROM author"),
    ("Which authors were born after 1960?", 'SELECT NAME FROM Author WHERE born > 1960 ORDER BY name'),
    ("How many books of each genre?", "SELECT genre, count(*) FROM book GROUP BY genre"),
    (
        "Which authors wrote more than 5 books?",
        "SELECT T1.name FROM author AS T1 JOIN book AS T2 ON T1.author_id = T2.author_id "
        "GROUP BY T1.author_id HAVING count(*) > 5",
    ),
    (
        "Titles of novels by authors from Ghana",
        "SELECT T2.title FROM author AS T1 JOIN book AS T2 ON T1.author_id = T2.author_id "
        "WHERE T1.country = 'Ghana' AND T2.genre = 'novel'",
    ),
    ("Authors without a book", "SELECT name FROM author WHERE author_id NOT IN (SELECT author_id FROM book)"),
    ("Books dearer than the average", "SELECT title FROM book WHERE price > (SELECT avg(price) FROM book)"),
    (
        "Countries of authors born before 1960 but not after 1970",
        "SELECT country FROM author WHERE born < 1960 EXCEPT SELECT country FROM author WHERE born > 1970",
    ),
    ("The longest book", "SELECT title, pages FROM book ORDER BY pages DESC LIMIT 1"),
    ("Average price of essays", 'SELECT avg(price) FROM book WHERE genre = "essay"'),
]  # fmt: skip
SKIPPED = [
    ("Poets?", "SELECT poet FROM author", "gold_fails"),
    ("Authors from Mars", "SELECT name FROM author WHERE country = 'Mars'", "gold_empty"),
    (
        "Endless",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
        "gold_timeout",
    ),
]


def make_database(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as connection:
        connection.executescript(DDL)
        connection.executemany("INSERT INTO author VALUES (?, ?, ?, ?)", AUTHORS)
        connection.executemany("INSERT INTO book VALUES (?, ?, ?, ?, ?, ?)", BOOKS)
    connection.close()
    return path


def write_json(path: Path, entries: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def spider(tmp_path_factory):
    root = tmp_path_factory.mktemp("spider")
    make_database(root / "database" / "library" / "library.sqlite")
    entries = [{"db_id": "library", "question": q, "query": sql} for q, sql in QUESTIONS]
    write_json(root / "train_spider.json", entries[:6])
    write_json(root / "train_others.json", entries[6:])
    bad = [{"db_id": "library", "question": q, "query": sql} for q, sql, _ in SKIPPED]
    write_json(root / "dev.json", [*bad, entries[0]])
    return root


@pytest.fixture(scope="module")
def built(spider, tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "train.jsonl"
    summary = build("spider", spider, "train", output, wrong_per_question=6)
    traces = [Trace.from_dict(json.loads(line)) for line in output.read_text(encoding="utf-8").splitlines()]
    return output, traces, summary


def groups_of(traces):
    groups = {}
    for trace in traces:
        groups.setdefault(trace.group, []).append(trace)
    return groups


def split(group):
    """The right traces of a group and the wrong ones."""
    return [t for t in group if t.first_error < 0], [t for t in group if t.first_error >= 0]


def test_every_question_has_a_right_trace_and_wrong_ones(built):
    _, traces, summary = built
    groups = groups_of(traces)
    assert list(groups) == [f"train-{i}" for i in range(len(QUESTIONS))]
    for (question, sql), group in zip(QUESTIONS, groups.values(), strict=True):
        right, wrong = split(group)
        assert group == right + wrong and 1 <= len(right) <= 2 and 4 <= len(wrong) <= 6
        assert all(set(trace.labels) == {1} for trace in right)
        assert [t.id for t in group] == [f"{t.group}-{k}" for k, t in enumerate(group)]
        for trace in group:
            assert (trace.question, trace.gold_sql, trace.db_id) == (question, sql, "library")
            assert "author(author_id INTEGER PRIMARY KEY" in trace.schema
    assert summary["traces"] == len(traces) and summary["skipped"] == {}
    rights = sum(trace.first_error < 0 for trace in traces)
    assert summary["right_alternatives"] == rights - len(QUESTIONS) >= 8


def test_labels_fall_once_where_the_first_error_is_named(built):
    _, traces, summary = built
    several = Counter()
    for trace in traces:
        at, n = trace.first_error, len(trace.steps)
        assert trace.labels == ([1] * n if at < 0 else [1] * at + [0] * (n - at))
        named = [i for i, step in enumerate(trace.steps) if step.error]
        assert named[:1] == ([] if at < 0 else [at])
        assert {trace.steps[i].error for i in named} <= set(CATEGORIES)
        several[len(named)] += 1
    del several[0]
    assert summary["errors_per_wrong_trace"] == {str(n): k for n, k in sorted(several.items())}
    assert several[1] > several[2] > 0 == several[3]  # max_errors is 2


def test_a_wrong_trace_is_its_parent_up_to_its_error(built):
    for group in groups_of(built[1]).values():
        rights, wrongs = split(group)
        by_id = {trace.id: trace for trace in rights}
        assert not any("parent" in trace.extra for trace in rights)
        assert len({trace.extra["style"] for trace in group}) == 1
        for trace in wrongs:
            parent, at = by_id[trace.extra["parent"]], trace.first_error
            assert [s.text for s in trace.steps[:at]] == [s.text for s in parent.steps[:at]]
            assert trace.steps[at].sql != parent.steps[at].sql
            assert trace.steps[at].text != parent.steps[at].text
        assert len({t.sql for t in group}) == len(group)
        # No prefix that one trace calls wrong is called right by another.
        right = {tuple(s.text for s in t.steps[: i + 1]) for t in rights for i in range(len(t.steps))}
        assert not right & {tuple(s.text for s in t.steps[: t.first_error + 1]) for t in wrongs}
    used = Counter(t.extra["parent"].endswith("-0") for t in built[1] if t.first_error >= 0)
    assert used[False] > 15 and used[True] > 15  # rewritten traces have wrong children, too


def test_sql_is_the_steps_put_together_and_differs_from_gold_just_when_wrong(built, spider, tmp_path):
    """On the database itself, or else on the variant that the trace names."""
    path, by_variant = spider / "database" / "library" / "library.sqlite", 0
    with open_database(path) as database:
        for trace in built[1]:
            assert trace.sql == assemble([step.sql for step in trace.steps])
            gold = database.execute(trace.gold_sql)
            if FAILING & {step.error for step in trace.steps}:
                with pytest.raises(SQLError):
                    database.execute(trace.sql)
                continue
            equal = results_equal(gold, database.execute(trace.sql), ordered=is_ordered(trace.gold_sql))
            if trace.label_source == "execution":
                assert equal == (trace.labels[-1] == 1), trace.sql
                continue
            assert equal and trace.labels[-1] == 0, trace.sql
            by_variant += 1
            variant = remake(path, trace.gold_sql, trace.label_source, tmp_path)
            with open_database(variant.path) as there:
                assert not results_equal(variant.gold, there.execute(trace.sql), ordered=variant.ordered)
    assert built[2]["label_sources"] == {"execution": len(built[1]) - by_variant, "variant": by_variant}
    assert by_variant > 0


def test_a_chain_is_right_only_where_it_equals_gold_everywhere():
    """Equal on the database by accident, different on the second ground; on the third it does not run."""
    chain = written([Link("", sqlglot.parse_one("SELECT 1", dialect="sqlite"))])

    def ground(rows):
        return Ground("execution", Rows([(1,)]), False, lambda _: rows if rows else fail())

    def fail():
        raise SQLError("no such table", "error")

    assert is_right(chain, [ground([(1,)]), ground([(1,)])])
    assert not is_right(chain, [ground([(1,)]), ground([(2,)])])
    assert not is_right(chain, [ground([(1,)]), ground(None)])


def test_some_wrong_steps_do_not_run(spider, tmp_path):
    """A small share of the natural errors; none where results close to gold's are wanted."""
    arguments = ("spider", spider, "train")
    kinds = build(*arguments, tmp_path / "a.jsonl", wrong_per_question=20)["categories"]
    failing = sum(n for kind, n in kinds.items() if kind in FAILING)
    assert 0.02 < failing / sum(kinds.values()) < 0.2
    kinds = build(*arguments, tmp_path / "a.jsonl", wrong_per_question=3, hard_negatives=True)["categories"]
    assert kinds and not FAILING & set(kinds)


@pytest.mark.parametrize("style", ["both", "sql", "english"])
def test_styles(spider, tmp_path, style):
    output = tmp_path / "a.jsonl"
    build("spider", spider, "train", output, styles=[style], limit=6)
    traces = [Trace.from_dict(json.loads(line)) for line in output.read_text(encoding="utf-8").splitlines()]
    for trace in traces:
        assert trace.extra["style"] == style
        for step in trace.steps:
            *sentence, fragment = step.text.split("\n") if style != "english" else (step.text, step.sql)
            assert fragment == step.sql and parse_fragment(fragment)
            assert len(sentence) == (style != "sql")
            assert all(s[0].isupper() and s.endswith(".") and "SELECT" not in s for s in sentence)


def test_styles_are_drawn_for_each_question(built):
    assert set(built[2]["styles"]) == {"both", "sql", "english"}
    assert sum(built[2]["styles"].values()) == len(built[1])


@pytest.mark.parametrize("options", [{"styles": []}, {"styles": ["french"]}, {"errors": "rare"}])
def test_settings_that_are_not_there_are_refused(spider, tmp_path, options):
    with pytest.raises(InputError, match=r"one or more of both, sql, english|'natural' or 'uniform'"):
        build("spider", spider, "train", tmp_path / "a.jsonl", **options)


def test_the_command_takes_the_settings(spider, tmp_path):
    arguments = ["build", "--layout", "spider", "--root", str(spider), "--split", "train"]
    settings = ["--right-per-question", "3", "--wrong-per-question", "3", "--errors", "uniform"]
    more = ["--max-errors", "1", "--hard-negatives", "--styles", "sql", "both"]
    assert main([*arguments, "--output", str(tmp_path / "a.jsonl"), *settings, *more]) == 0
    options = {"errors": "uniform", "max_errors": 1, "hard_negatives": True, "styles": ["sql", "both"]}
    build(
        "spider", spider, "train", tmp_path / "b.jsonl", right_per_question=3, wrong_per_question=3, **options
    )
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--output", str(tmp_path / "a.jsonl"), "--styles", "french"])
    assert caught.value.code == 2


def test_one_right_trace_one_error(spider, tmp_path):
    summary = build("spider", spider, "train", tmp_path / "a.jsonl", right_per_question=1, max_errors=1)
    assert summary["right_alternatives"] == 0 and set(summary["errors_per_wrong_trace"]) == {"1"}


def test_natural_errors_are_as_frequent_as_real_ones(spider, tmp_path):
    """As far as ten queries allow it: the commonest kind is common, and only where that is asked for."""
    shares = {}
    for kind in ("natural", "uniform"):
        found = build("spider", spider, "train", tmp_path / "a.jsonl", wrong_per_question=12, errors=kind)
        shares[kind] = {
            name: n / sum(found["categories"].values()) for name, n in found["categories"].items()
        }
    assert shares["natural"]["column"] > 2 * shares["uniform"]["column"]
    rare = ("string_function", "window", "rounding", "date_time", "partial_query")
    natural, uniform = (sum(shares[kind].get(name, 0) for name in rare) for kind in ("natural", "uniform"))
    assert uniform > 2 * natural


def test_statistics_name_the_types_of_the_taxonomy(built, capsys):
    _, _, summary = built
    by_subtype = Counter()
    for category, n in summary["categories"].items():
        by_subtype[CATEGORIES[category]] += n
    told = {(kind, sub): n for kind, subs in summary["error_types"].items() for sub, n in subs.items()}
    assert told == by_subtype


def test_hard_negatives_are_closer_to_gold(spider, tmp_path):
    def mean_closeness(**options):
        output = tmp_path / "a.jsonl"
        build("spider", spider, "train", output, wrong_per_question=3, max_errors=1, **options)
        found = []
        with open_database(spider / "database" / "library" / "library.sqlite") as database:
            for line in output.read_text(encoding="utf-8").splitlines():
                trace = Trace.from_dict(json.loads(line))
                if trace.first_error >= 0 and trace.steps[trace.first_error].error not in FAILING:
                    rows = database.execute(trace.gold_sql), database.execute(trace.sql)
                    found.append(closeness(*rows))
        return sum(found) / len(found)

    assert mean_closeness(hard_negatives=True) > mean_closeness() + 0.15


@pytest.mark.parametrize(
    ("gold", "rows", "wanted"),
    [
        ([(1, "a"), (2, "b")], [(2, "a"), (1, "b")], 1.0),  # the same cells, put together wrongly
        ([(1,), (2,)], [(2,), (3,)], 0.5),
        ([(1,), (2,)], [(1,), (2,), (3,), (4,)], 2 / 3),  # all of gold, half of the result
        ([(1, "a")], [(1,)], 2 / 3),
        ([(1,)], [(2,)], 0.0),
        ([(None,)], [], 0.0),
    ],
)
def test_closeness(gold, rows, wanted):
    assert closeness(gold, rows) == pytest.approx(wanted)


def test_errors_are_spread_over_steps_and_kinds(built):
    """Of the chains that are right so far, each of two steps makes about the same share wrong."""
    _, traces, summary = built
    two = [t for t in traces if len(t.steps) == 2]
    late = [t for t in two if t.first_error != 0]
    first = 1 - len(late) / len(two)
    second = sum(t.first_error == 1 for t in late) / len(late)
    assert len(two) > 20 and abs(first - second) < 0.25, (first, second)
    assert len(summary["categories"]) >= 15
    assert sum(summary["first_error_positions"].values()) == summary["traces"] * summary["share_wrong"]


def test_names_are_spelled_as_in_the_schema(built):
    """Gold's own `NAME FROM Author` would make a wrong `name` stand out."""
    for trace in groups_of(built[1])["train-1"]:
        assert "NAME" not in trace.sql and "Author" not in trace.sql


def test_workers_and_shards_give_the_same_bytes(built, spider, tmp_path, monkeypatch):
    output, _, _ = built
    monkeypatch.setattr("prm.labeling.build._CHUNK", 3)
    build("spider", spider, "train", tmp_path / "two.jsonl", wrong_per_question=6, workers=2)
    assert (tmp_path / "two.jsonl").read_bytes() == output.read_bytes()
    lines = []
    for i in (1, 2, 3):
        summary = build(
            "spider", spider, "train", tmp_path / "part.jsonl", wrong_per_question=6, shard=(i, 3)
        )
        assert summary["questions"] == len(QUESTIONS[i - 1 :: 3])
        lines += (tmp_path / "part.jsonl").read_text(encoding="utf-8").splitlines()
    whole = output.read_text(encoding="utf-8").splitlines()
    assert sorted(lines) == sorted(whole) and len(lines) == len(whole)


def test_the_seed_changes_the_errors_and_nothing_else_does(built, spider, tmp_path):
    build("spider", spider, "train", tmp_path / "a.jsonl", wrong_per_question=6, limit=4)
    first = (tmp_path / "a.jsonl").read_bytes()
    assert built[0].read_bytes().startswith(first)
    build("spider", spider, "train", tmp_path / "b.jsonl", wrong_per_question=6, limit=4, seed=1)
    assert (tmp_path / "b.jsonl").read_bytes() != first


def test_skipped_questions_are_counted_with_their_reason(spider, tmp_path, capsys):
    arguments = ["build", "--layout", "spider", "--root", str(spider), "--split", "dev", "--timeout", "0.3"]
    assert main([*arguments, "--output", str(tmp_path / "dev.jsonl")]) == 0
    summary = json.loads((tmp_path / "dev.jsonl.stats.json").read_text(encoding="utf-8"))
    assert summary["skipped"] == {reason: 1 for _, _, reason in SKIPPED}
    assert (summary["questions"], summary["questions_with_traces"]) == (4, 1)
    said = capsys.readouterr().err
    assert "4 questions" in said and "skipped 1: gold gives no rows" in said


@pytest.mark.parametrize("kind", [AttributeError, KeyError, RecursionError])
def test_one_query_that_breaks_the_builder_does_not_end_the_build(spider, tmp_path, monkeypatch, kind):
    def breaks_at_counts(sql, tables):
        if "count" in sql:
            raise kind("no such thing")
        return decompose(sql, tables)

    monkeypatch.setattr("prm.labeling.build.decompose", breaks_at_counts)
    summary = build("spider", spider, "train", tmp_path / "train.jsonl")
    broken = sum("count" in sql for _, sql in QUESTIONS)
    assert summary["skipped"] == {"not_decomposed": broken}
    assert summary["questions_with_traces"] == len(QUESTIONS) - broken > 0
    unexpected = None if kind is RecursionError else f"train-0: {kind.__name__}: {kind('no such thing')}"
    assert summary["first_unexpected_error"] == unexpected


def test_aggregates_with_a_filter_are_labelled(tmp_path):
    """Also the wrong trace that forgets the filter's only condition."""
    make_database(tmp_path / "database" / "library" / "library.sqlite")
    sql = "SELECT genre, COUNT(*) FILTER (WHERE price > 10) FROM book GROUP BY genre"
    write_json(tmp_path / "dev.json", [{"db_id": "library", "question": "q", "query": sql}])
    summary = build("spider", tmp_path, "dev", tmp_path / "dev.jsonl", wrong_per_question=40)
    assert (summary["skipped"], summary["first_unexpected_error"]) == ({}, None)
    assert summary["categories"]["condition_missing"] >= 1


def test_an_empty_shard_is_refused(spider, tmp_path, capsys):
    arguments = ["build", "--layout", "spider", "--root", str(spider), "--split", "train"]
    assert main([*arguments, "--shard", "96/1000000", "--output", str(tmp_path / "o.jsonl")]) == 2
    assert capsys.readouterr().err == (
        "prm: no question falls into this shard (96/1000000 of 10 questions); make fewer shards\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_split_without_a_usable_question_is_refused_but_leaves_its_statistics(tmp_path, capsys):
    make_database(tmp_path / "database" / "library" / "library.sqlite")
    bad = [{"db_id": "library", "question": q, "query": sql} for q, sql, _ in SKIPPED[:2]]
    write_json(tmp_path / "dev.json", bad)
    arguments = ["build", "--layout", "spider", "--root", str(tmp_path), "--split", "dev"]
    output = tmp_path / "out" / "dev.jsonl"
    assert main([*arguments, "--output", str(output)]) == 2
    assert capsys.readouterr().err == (
        f"prm: {tmp_path}: none of 2 questions gives a trace (1 x gold SQL does not run, 1 x gold gives "
        "no rows, so nothing could tell right from wrong), so nothing was written; "
        f"see {output}.stats.json and check the gold SQL and the databases\n"
    )
    assert [path.name for path in output.parent.iterdir()] == ["dev.jsonl.stats.json"]
    summary = json.loads((output.parent / "dev.jsonl.stats.json").read_text(encoding="utf-8"))
    assert (summary["questions"], summary["traces"]) == (2, 0)
    assert summary["skipped"] == {"gold_fails": 1, "gold_empty": 1}


def test_bird_layout_carries_the_evidence(tmp_path):
    """`dev/` inside the folder, `SQL` and `evidence` in the entries."""
    home = tmp_path / "bird" / "dev"
    make_database(home / "dev_databases" / "library" / "library.sqlite")
    question, sql = QUESTIONS[4]
    entry = {
        "question_id": 7,
        "db_id": "library",
        "question": question,
        "evidence": "Ghana is a country",
        "SQL": sql,
    }
    write_json(home / "dev.json", [entry, entry | {"evidence": ""}])
    for root in (home, home.parent):
        build("bird", root, "dev", tmp_path / "dev.jsonl")
        rows = [
            json.loads(line) for line in (tmp_path / "dev.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        assert {row.get("evidence") for row in rows if row["group"] == "dev-0"} == {"Ghana is a country"}
        assert not any("evidence" in row for row in rows if row["group"] == "dev-1")


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_table_layout(tmp_path, suffix):
    make_database(tmp_path / "data" / "shop.db")
    rows = [{"question": q, "sql": sql, "database": "data/shop.db"} for q, sql in QUESTIONS[:2]]
    rows[0] |= {"id": "mine", "evidence": "an author is a person"}
    file = tmp_path / f"questions.{suffix}"
    with open(file, "w", encoding="utf-8", newline="") as stream:
        if suffix == "csv":
            writer = csv.DictWriter(stream, ["id", "question", "sql", "database", "evidence"])
            writer.writeheader()
            writer.writerows(rows)
        else:
            stream.writelines(json.dumps(row) + "\n" for row in rows)
    build("table", file, None, tmp_path / "out.jsonl")
    made = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["group"] for row in made} == {"mine", "questions-1"}
    assert made[0]["id"] == "mine-0" and made[0]["db_id"] == "shop"
    assert made[0]["evidence"] == "an author is a person" and "evidence" not in made[-1]


def spoilt(root: Path, entry: dict) -> Path:
    make_database(root / "database" / "library" / "library.sqlite")
    good = {"db_id": "library", "question": "q", "query": "SELECT 1"}
    write_json(root / "dev.json", [good, good | entry])
    return root


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"query": None}, "entry 1 (from 0): 'query' must be a non-empty text"),
        ({"question": " "}, "entry 1 (from 0): 'question' must be a non-empty text"),
        ({"db_id": "zoo"}, "entry 1 (from 0) asks database 'zoo', but there is no"),
        ({"db_id": "../library"}, "'db_id' must be the name of a folder"),
    ],
)
def test_a_bad_entry_is_named(tmp_path, entry, said):
    with pytest.raises(InputError) as caught:
        read_questions("spider", spoilt(tmp_path, entry), "dev")
    assert said in str(caught.value) and "dev.json" in str(caught.value)


def test_files_that_are_not_what_they_should_be(tmp_path):
    with pytest.raises(InputError, match=r"no such folder"):
        read_questions("spider", tmp_path / "nowhere", "dev")
    with pytest.raises(InputError, match=r"has no dev\.json"):
        read_questions("spider", tmp_path, "dev")
    with pytest.raises(InputError, match="needs --split"):
        read_questions("bird", tmp_path, None)
    (tmp_path / "dev.json").write_text('[{"db_id": \n oops', encoding="utf-8")
    with pytest.raises(InputError, match=r"dev\.json:2: no valid JSON"):
        read_questions("spider", tmp_path, "dev")
    write_json(tmp_path / "dev.json", [])
    with pytest.raises(InputError, match="holds no questions"):
        read_questions("spider", tmp_path, "dev")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"question": "q", "sql": "SELECT 1", "database": "no.db"}\n', ":1: there is no database"),
        ('\n{"question": "q", "sql": "SELECT 1"}\n', ":2: 'database' must be a non-empty text"),
        ('{"question": "q"\n', ":1: no JSON object"),
        (
            '{"question": "q", "sql": "S", "database": "a.db", "id": "x"}\n' * 2,
            ":2: the id 'x' also stands in line 1",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, said):
    make_database(tmp_path / "a.db")
    (tmp_path / "mine.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_questions("table", tmp_path / "mine.jsonl", None)
    assert said in str(caught.value)


def test_half_a_character_is_refused_not_stumbled_over(tmp_path):
    make_database(tmp_path / "database" / "library" / "library.sqlite")
    text = '[{"db_id": "library", "question": "\\ud800", "query": "SELECT 1"}]'
    (tmp_path / "dev.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"entry 0 .*'question' holds half a character"):
        read_questions("spider", tmp_path, "dev")


def test_an_output_that_is_a_folder_is_refused_before_the_work(spider, tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        build("spider", spider, "train", tmp_path)


def test_a_gold_query_too_deep_to_handle_is_skipped(tmp_path):
    make_database(tmp_path / "database" / "library" / "library.sqlite")
    sql = "SELECT name FROM author WHERE " + " OR ".join(f"born = {i}" for i in range(1900, 2700))
    entry = {"db_id": "library", "question": "q", "query": sql}
    write_json(tmp_path / "dev.json", [entry, entry | {"query": "SELECT name FROM author"}])
    summary = build("spider", tmp_path, "dev", tmp_path / "dev.jsonl", wrong_per_question=1)
    assert summary["questions_with_traces"] + sum(summary["skipped"].values()) == 2
    assert summary["traces"] > 1


def test_a_quote_that_is_not_closed_names_its_line(tmp_path):
    text = 'question,sql,database\nq,SELECT 1,a.sqlite\n"q,SELECT 1,a.sqlite\nr,SELECT 2,a.sqlite\n'
    (tmp_path / "mine.csv").write_text(text, encoding="utf-8")
    (tmp_path / "a.sqlite").write_bytes(b"")
    with pytest.raises(InputError, match=r"mine\.csv:3: from here on no readable CSV"):
        read_questions("table", tmp_path / "mine.csv", None)


def test_a_key_that_stands_twice_is_refused(tmp_path):
    row = '{"question": "q", "sql": "SELECT 1", "sql": "SELECT 2", "database": "a.sqlite"}\n'
    (tmp_path / "mine.jsonl").write_text(row, encoding="utf-8")
    with pytest.raises(InputError, match=r"mine\.jsonl:1: the key 'sql' stands twice"):
        read_questions("table", tmp_path / "mine.jsonl", None)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--output", "traces.parquet"], "traces.parquet: JSON lines are written here, not .parquet"),
        (["--output", "traces.jsonl.gz"], "not .gz"),
        (["--output", "traces.jsonl", "--timeout", "nan"], "--timeout must be more than 0 seconds"),
        (["--output", "traces.jsonl", "--timeout", "0"], "--timeout must be more than 0 seconds"),
    ],
)
def test_arguments_that_cannot_be_meant(spider, tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    assert main(["build", "--layout", "spider", "--root", str(spider), "--split", "dev", *arguments]) == 2
    assert says in capsys.readouterr().err and not list(tmp_path.glob("traces*"))


def test_gold_that_reads_what_no_prompt_shows(tmp_path):
    """A view is in no schema text: its steps would look like those that invent a table."""
    with sqlite3.connect(make_database(tmp_path / "d.sqlite")) as connection:
        connection.execute("CREATE VIEW novels AS SELECT * FROM book WHERE genre = 'novel'")
    queries = [
        "SELECT count(*) FROM novels",
        "WITH n AS (SELECT title FROM book WHERE genre = 'novel') SELECT count(*) FROM main.author, N",
        "SELECT title FROM book WHERE pages IN (SELECT value FROM json_each('[100, 200, 300]')) OR pages > 1",
    ]
    rows = [json.dumps({"question": q, "sql": q, "database": "d.sqlite"}) for q in queries]
    (tmp_path / "q.jsonl").write_text("\n".join(rows), encoding="utf-8")
    summary = build("table", tmp_path / "q.jsonl", None, tmp_path / "t.jsonl")
    assert summary["skipped"] == {"gold_unseen": 1} and summary["questions_with_traces"] == 2


def test_a_csv_needs_its_columns(tmp_path):
    (tmp_path / "mine.csv").write_text("question,sql\nq,SELECT 1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"mine\.csv:1: the first line must name the column 'database'"):
        read_questions("table", tmp_path / "mine.csv", None)
    (tmp_path / "mine.csv").write_text("question,sql,database,sql\nq,SELECT 1,d,SELECT 2\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"mine\.csv:1: the first line names the column 'sql' twice"):
        read_questions("table", tmp_path / "mine.csv", None)


def test_a_file_that_is_no_database_stops_with_exit_status_2(tmp_path, capsys):
    """Also where the trouble shows in a worker process only; nothing is left under the output's name."""
    root = spoilt(tmp_path / "spider", {})
    (root / "database" / "library" / "library.sqlite").write_text("no database at all", encoding="utf-8")
    write_json(root / "dev.json", [{"db_id": "library", "question": "q", "query": "SELECT 1"}] * 40)
    for workers in ("1", "2"):
        arguments = [
            "build",
            "--layout",
            "spider",
            "--root",
            str(root),
            "--split",
            "dev",
            "--workers",
            workers,
        ]
        assert main([*arguments, "--output", str(tmp_path / "out" / "dev.jsonl")]) == 2
        assert "not an SQLite database" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_the_builder_imports_no_model_library():
    code = (
        "import sys, prm.labeling.build\n"
        "print([m for m in ('torch', 'transformers', 'evaluate') if m in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "[]"
