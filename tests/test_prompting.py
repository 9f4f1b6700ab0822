"""What the model reads: the text of a prompt, and what goes when a schema is too long for its room."""

from __future__ import annotations

import pytest

from prm.traces.prompting import prompt_text, shorter_schemas
from prm.traces.trace import Step, Trace

STEPS = [Step("Take the singers.", 1)]


@pytest.mark.parametrize(
    ("trace", "text"),
    [
        (
            Trace("How many?", STEPS, schema="singer(id INTEGER)"),
            "Schema:\nsinger(id INTEGER)\nQuestion: How many?\nSteps:\n",
        ),
        (
            Trace(" How many?\n", STEPS, schema="\nsinger(id INTEGER)\n\n", evidence=" old = age > 60 "),
            "Schema:\nsinger(id INTEGER)\nEvidence: old = age > 60\nQuestion: How many?\nSteps:\n",
        ),
        (Trace("How many?", STEPS), "Question: How many?\nSteps:\n"),
        (Trace("How many?", STEPS, schema=" ", evidence=" "), "Question: How many?\nSteps:\n"),
        (Trace("q", STEPS, schema="s", evidence="e", extra={"prompt": " as\nit is "}), " as\nit is "),
        (Trace("q", STEPS, schema="s", evidence="e", extra={"prompt": ""}), ""),
        (Trace("q", STEPS, extra={"prompt": None}), "Question: q\nSteps:\n"),
    ],
)
def test_prompt_text(trace, text):
    assert prompt_text(trace) == text


LINES = (
    "stadium(stadium_id INTEGER PRIMARY KEY, city TEXT /* 'Ayr' | 'Perth' */)\n"
    "singer(singer_id INTEGER PRIMARY KEY, name TEXT /* 'Joe' */, age INTEGER)\n"
    "concert(concert_id INTEGER PRIMARY KEY, stadium_id INTEGER)\n"
    "foreign keys: concert.stadium_id = stadium.stadium_id; concert.singer_id = singer.singer_id"
)
BARE = (
    "stadium(stadium_id INTEGER PRIMARY KEY, city TEXT)\n"
    "singer(singer_id INTEGER PRIMARY KEY, name TEXT, age INTEGER)\n"
    "concert(concert_id INTEGER PRIMARY KEY, stadium_id INTEGER)\n"
    "foreign keys: concert.stadium_id = stadium.stadium_id; concert.singer_id = singer.singer_id"
)


def test_example_values_go_first_then_the_tables_the_question_says_least_of():
    assert list(shorter_schemas(LINES, "How old is each singer, by age and name?")) == [
        BARE,
        # stadium and concert are equally unrelated: the last one goes first, and its keys with it
        "stadium(stadium_id INTEGER PRIMARY KEY, city TEXT)\n"
        "singer(singer_id INTEGER PRIMARY KEY, name TEXT, age INTEGER)",
        "singer(singer_id INTEGER PRIMARY KEY, name TEXT, age INTEGER)",
    ]


def test_keys_between_the_tables_that_stay_stay():
    shorter = list(shorter_schemas(LINES, "Which stadiums have a concert?"))
    assert shorter[1] == (
        "stadium(stadium_id INTEGER PRIMARY KEY, city TEXT)\n"
        "concert(concert_id INTEGER PRIMARY KEY, stadium_id INTEGER)\n"
        "foreign keys: concert.stadium_id = stadium.stadium_id"
    )


def test_evidence_relates_tables_too():
    assert list(shorter_schemas(LINES, "Which?", "the city is in stadium"))[-1].startswith("stadium(")


def test_chinese_questions_relate_to_chinese_names_without_spaces_between_words():
    schema = "课程(编号 INTEGER)\n学生(学号 INTEGER, 姓名 TEXT)\n教师(工号 INTEGER, 职称 TEXT)"
    assert list(shorter_schemas(schema, "每个学生叫什么名字？"))[-1] == "学生(学号 INTEGER, 姓名 TEXT)"
    assert list(shorter_schemas(schema, "有多少位教师？"))[-1] == "教师(工号 INTEGER, 职称 TEXT)"


@pytest.mark.parametrize(
    ("keys", "kept"),
    [
        # a key of two columns, quoted names, and names that hold what separates keys
        ("gone.a = t.a and gone.b = t.b; t.c = u.c", "foreign keys: t.c = u.c"),
        ('t."x.y" = gone."g.h"; t.c = u.c', "foreign keys: t.c = u.c"),
        ('t."a;b" = u."c=d"', 'foreign keys: t."a;b" = u."c=d"'),
        ("t.gone = u.gone", "foreign keys: t.gone = u.gone"),  # a column of that name is no table
        ("gone.a = t.a", None),
    ],
)
def test_foreign_keys_of_dropped_tables_go(keys, kept):
    schema = f"t(apple TEXT)\nu(apple TEXT)\ngone(pear TEXT)\nforeign keys: {keys}"
    first = next(shorter_schemas(schema, "apple"))
    assert first == "t(apple TEXT)\nu(apple TEXT)" + (f"\n{kept}" if kept else "")


def test_quoted_names_of_tables():
    schema = '"order details"(x TEXT)\n"a ""b"""(y TEXT)\nforeign keys: "a ""b""".y = "order details".x'
    assert list(shorter_schemas(schema, "details of each order")) == ['"order details"(x TEXT)']


DDL = """CREATE TABLE singer (
  id INTEGER PRIMARY KEY,
  name TEXT -- their name
);
CREATE TABLE IF NOT EXISTS "concert" (
  id INTEGER, singer_id INTEGER REFERENCES singer(id) ON DELETE SET NULL,
  hall_id INTEGER,
  CONSTRAINT played FOREIGN KEY (hall_id) REFERENCES `hall` (id) ON DELETE CASCADE ON UPDATE NO ACTION,
  FOREIGN KEY (singer_id) REFERENCES singer (id)
)END
/*
3 rows:
1 2
*/
CREATE TABLE hall (
  id INTEGER
)END"""


@pytest.mark.parametrize("end", [";", ""])  # as dumps have it, and as sqlite_master has it
def test_create_table_statements(end):
    schema = DDL.replace("END", end)
    shorter = list(shorter_schemas(schema, "Which singers have a concert?"))
    assert "3 rows" not in shorter[0] and "hall_id" in shorter[0]
    assert shorter[1] == (
        "CREATE TABLE singer (\n  id INTEGER PRIMARY KEY,\n  name TEXT -- their name\n);\n"
        'CREATE TABLE IF NOT EXISTS "concert" (\n'
        "  id INTEGER, singer_id INTEGER REFERENCES singer(id) ON DELETE SET NULL,\n"
        "  hall_id INTEGER,\n"
        f"  FOREIGN KEY (singer_id) REFERENCES singer (id)\n){end}"
    )
    assert shorter[2] == (
        f'CREATE TABLE IF NOT EXISTS "concert" (\n  id INTEGER, singer_id INTEGER,\n  hall_id INTEGER\n){end}'
    )
    assert len(shorter) == 3


@pytest.mark.parametrize(
    ("schema", "shorter"),
    [
        ("There are singers and concerts.", []),  # nothing in it is understood, so nothing goes
        ("# singer ( id, name )\n# concert ( id )", []),
        ("singers /* many */ and concerts", ["singers and concerts"]),
        ("one(a TEXT)", []),
        ("", []),
    ],
)
def test_other_schemas(schema, shorter):
    assert list(shorter_schemas(schema, "How many singers?")) == shorter
