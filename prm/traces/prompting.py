"""What the model reads: a trace as text, and the schema cut to fit.

A prompt is schema, evidence and question, in this order: the traces of all questions on one database then
share their longest prefix. `PROMPT_VERSION` is stored in every checkpoint; a change of the text below is a
new version.

Where a schema is too long for the room it is given, first the example values go, then whole tables, the least
related to the question first. What goes depends on database, question and room alone, never on the steps: a
cut that looked at a candidate's SQL would tell the model which tables that answer uses. So all traces of a
question, in training and at scoring time, are read under the same prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from prm.traces.trace import Trace

PROMPT_VERSION = 1

_COMMENT = re.compile(r"\s*/\*.*?\*/", re.DOTALL)
_DDL_START = re.compile(r"^\s*CREATE\s+(?:TEMP(?:ORARY)?\s+)?(?:TABLE|VIEW)\b", re.IGNORECASE)
_NAME = r'(?:"(?:[^"]|"")+"|`[^`]+`|\[[^\]]+\]|[^\s.,;=()"`\[\]]+)'
_TABLE_LINE = re.compile(rf"^\s*({_NAME})\s*\(")
_DDL_NAME = re.compile(rf"(?:TABLE|VIEW)\s+(?:IF\s+NOT\s+EXISTS\s+)?(?:{_NAME}\.)?({_NAME})", re.IGNORECASE)
_DDL_REFERENCE = re.compile(
    rf"(?:,\s*(?:CONSTRAINT\s+{_NAME}\s+)?FOREIGN\s+KEY\s*\([^)]*\))?\s*\bREFERENCES\s+({_NAME})(?:\s*\([^)]*\))?"
    r"(?:\s+ON\s+(?:DELETE|UPDATE)\s+(?:SET\s+NULL|SET\s+DEFAULT|CASCADE|RESTRICT|NO\s+ACTION))*",
    re.IGNORECASE,
)
_FOREIGN_KEYS = "foreign keys:"
_KEY_SIDE = re.compile(rf"({_NAME})\.{_NAME}")
_UNQUOTED_SEMICOLON = re.compile(r';(?=(?:[^"]*"[^"]*")*[^"]*$)')
_WORD = re.compile(r"[^\W_]+")
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]{2,}")  # kana and Han characters


def prompt_text(trace: Trace, schema: str | None = None) -> str:
    """The prompt of a trace; `schema` replaces its own (a shortened one). A `prompt` key of the trace is
    verbatim.
    """
    verbatim = trace.extra.get("prompt")
    if isinstance(verbatim, str):
        return verbatim
    schema = trace.schema if schema is None else schema
    parts = [f"Schema:\n{schema.strip()}\n"] if schema and schema.strip() else []
    if trace.evidence and trace.evidence.strip():
        parts.append(f"Evidence: {trace.evidence.strip()}\n")
    parts.append(f"Question: {trace.question.strip()}\nSteps:\n")
    return "".join(parts)


def shorter_schemas(schema: str, question: str, evidence: str | None = None) -> Iterator[str]:
    """Shorter and shorter versions of `schema`: without example values, then with ever fewer tables.

    Understands one table a line (`prm.sql.schema.schema_text`) and `CREATE TABLE` statements; of any other
    text only the comments can go. The last version still has one table.
    """
    bare = _COMMENT.sub("", schema)
    if bare != schema:
        yield bare
    blocks = _table_blocks(bare)
    tables = [i for i, (name, _) in enumerate(blocks) if name is not None]
    words = _stems(f"{question} {evidence or ''}")
    # The last of equally unrelated tables goes first.
    order = sorted(tables, key=lambda i: (len(words & _stems(blocks[i][1])), -i))
    gone: set[int] = set()
    for i in order[:-1]:
        gone.add(i)
        names = {blocks[j][0] for j in gone}
        yield "\n".join(
            kept
            for j, (_, text) in enumerate(blocks)
            if j not in gone and (kept := _without_keys(text, names))
        )


def _table_blocks(schema: str) -> list[tuple[str | None, str]]:
    """(table name, text) a table, in order; name None for lines that belong to no table."""
    blocks: list[tuple[str | None, str]] = []
    in_ddl = False
    for line in schema.splitlines():
        if _DDL_START.match(line):  # a statement ends by its semicolon or, without one, where the next begins
            match = _DDL_NAME.search(line)
            blocks.append((_bare(match.group(1)) if match else None, line))
            in_ddl = True
        elif line.lower().startswith(_FOREIGN_KEYS):
            blocks.append((None, line))
            in_ddl = False
        elif in_ddl:
            name, text = blocks[-1]
            blocks[-1] = (name, f"{text}\n{line}")
        else:
            match = _TABLE_LINE.match(line)
            blocks.append((_bare(match.group(1)) if match else None, line))
        in_ddl = in_ddl and not line.rstrip().endswith(";")
    return blocks


def _without_keys(text: str, gone: set[str | None]) -> str:
    """`text` without the foreign keys that name a gone table; "" where a line of keys has none left."""
    if _DDL_START.match(text):
        return _DDL_REFERENCE.sub(lambda key: "" if _bare(key.group(1)) in gone else key.group(), text)
    if not text.lower().startswith(_FOREIGN_KEYS):
        return text
    keys = [key.strip() for key in _UNQUOTED_SEMICOLON.split(text[len(_FOREIGN_KEYS) :])]
    kept = [k for k in keys if k and not any(_bare(table) in gone for table in _KEY_SIDE.findall(k))]
    return f"{_FOREIGN_KEYS} {'; '.join(kept)}" if kept else ""


def _bare(name: str) -> str:
    return name.strip('"`[]').lower()


def _stems(text: str) -> set[str]:
    """What relates a question to a table: lower-cased words without a plural s (`singers`, `singer`), and the
    pairs of neighbouring characters where a script puts no space between words (学生).
    """
    words = {w.rstrip("s") for word in _WORD.findall(text) if len(w := word.lower()) > 2}
    return words | {run[i : i + 2] for run in _UNSPACED.findall(text) for i in range(len(run) - 1)}
