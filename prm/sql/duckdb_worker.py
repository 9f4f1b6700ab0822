"""DuckDB inside the worker process: one read-only file, and nothing else of the machine.

DuckDB reads files and loads extensions for whoever asks (`FROM 'x.csv'`, COPY, ATTACH, INSTALL, httpfs). All
of that is off (`enable_external_access`), and so are Python's variables as tables; the configuration is then
locked, so that no statement can turn anything on again. Only what DuckDB itself calls a SELECT is run. One
thread, so that rows come in the same order each time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import duckdb
from worker import BATCH, Unavailable, limit_memory, packed, plain

#: A statement that reads, after white space and comments: DESCRIBE and SHOW count as SELECT in DuckDB.
READS = re.compile(r"(?>\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*+(SELECT\b|WITH\b|VALUES\b|FROM\b|\()", re.I | re.S)
#: Functions that change something, be it only of the session.
FORBIDDEN = re.compile(r"\b(nextval|setval|setseed|write_log)\b", re.I)
#: Words of statements whose result may be another one the next time, beside the names of functions.
FLEETING = {
    "current_timestamp", "current_time", "localtime", "localtimestamp", "sample", "tablesample",
    "pragma_database_size", "query", "query_table", "json_execute_serialized_sql",
}  # fmt: skip
CONFIGURATION: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "memory_limit": "500MB",  # what DuckDB itself counts
    "temp_directory": "",
    "max_temp_directory_size": "0B",
    "threads": "1",
    "lock_configuration": "true",
}


ADDRESS_SPACE = 2 << 30  # bytes; 0.8 GB of it are reserved, not used, as soon as a file is open


class DuckDBConnection:
    def __init__(self, path: str) -> None:
        self._connection = duckdb.connect(path, read_only=True, config=CONFIGURATION)
        self._fleeting = _fleeting(self._connection)

    def run(self, sql: str, timeout: float, max_rows: int, max_bytes: int, _: int | None) -> tuple[Any, ...]:
        if not READS.match(sql):
            return "refused", "not a statement that reads: only SELECT, WITH, VALUES and FROM are run"
        if match := FORBIDDEN.search(sql):
            return "refused", f"the statement does more than read ({match[0]})"
        try:
            statements = duckdb.extract_statements(sql)
            if len(statements) != 1:
                return "refused", "more than one statement"
            if statements[0].type != duckdb.StatementType.SELECT:
                return "refused", f"the statement does more than read ({statements[0].type})"
            result = self._connection.execute(statements[0])
            columns = tuple(entry[0] for entry in result.description or ())
            lasting = self._fleeting.isdisjoint(re.findall(r"\w+", sql.lower()))
            return packed(columns, _batches(result), lasting, max_rows, max_bytes)
        except (MemoryError, duckdb.OutOfMemoryException) as error:
            return "too_large", _first_line(error) or "the statement needs more memory than it may have"
        except duckdb.PermissionException as error:
            return "refused", _first_line(error)
        except duckdb.FatalException as error:  # the connection is of no use any more
            raise Unavailable(_first_line(error)) from None
        except (duckdb.Error, ValueError, OverflowError, RuntimeError) as error:
            return "error", _first_line(error)

    def close(self) -> None:
        self._connection.close()


def _fleeting(connection: duckdb.DuckDBPyConnection) -> set[str]:
    """Words of statements whose result may be another one the next time: functions that DuckDB does not call
    consistent, what runs SQL out of a string, and views and macros that are made with any of them."""
    names = connection.execute(
        "SELECT DISTINCT lower(function_name) FROM duckdb_functions() WHERE stability <> 'CONSISTENT'"
    ).fetchall()
    fleeting = FLEETING | {name for (name,) in names}
    definitions = [
        (name, set(re.findall(r"\w+", text.lower())))
        for name, text in connection.execute(
            "SELECT lower(view_name), sql FROM duckdb_views() WHERE sql IS NOT NULL UNION ALL "
            "SELECT lower(function_name), macro_definition FROM duckdb_functions() "
            "WHERE macro_definition IS NOT NULL"
        ).fetchall()
    ]
    while more := {name for name, words in definitions if words & fleeting} - fleeting:
        fleeting |= more
    return fleeting


def _batches(result: duckdb.DuckDBPyConnection) -> Iterator[list[tuple]]:
    while rows := result.fetchmany(BATCH):
        yield [tuple(map(plain, row)) for row in rows]


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def connect(target: str, max_sql: int) -> DuckDBConnection:
    limit_memory(ADDRESS_SPACE)
    try:
        return DuckDBConnection(target.removeprefix("duckdb:"))
    except duckdb.Error as error:
        raise Unavailable(f"cannot open the database ({_first_line(error)})") from None
