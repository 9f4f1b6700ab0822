"""SQL and databases: sandboxed execution, comparison of results, decomposition into steps, mutation."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from prm.sql.compare import is_ordered, results_equal
from prm.sql.database import Database, DatabasePool, Rows, SQLError, open_database
from prm.sql.schema import Schema, read_schema, schema_text

if TYPE_CHECKING:  # see `_Room`
    from prm.sql.decompose import decompose as decompose

__all__ = [
    "Database",
    "DatabasePool",
    "Rows",
    "SQLError",
    "Schema",
    "decompose",
    "is_ordered",
    "open_database",
    "read_schema",
    "results_equal",
    "schema_text",
]


class _Room(ModuleType):
    """This package, with `decompose` as the function of that name.

    Two reasons why it is not simply imported above: it stands on sqlglot, which takes longer to import than
    everything else here; and when Python has imported the file `decompose.py` it binds the package's
    attribute of that name to the file's module, at a moment that nobody here controls. A property that
    ignores that binding makes both `from prm.sql import decompose` and `from prm.sql.decompose import
    SQLStep` mean what they say.
    """

    @property
    def decompose(self) -> Callable[..., Any]:
        from prm.sql.decompose import decompose

        return decompose

    @decompose.setter
    def decompose(self, module: ModuleType) -> None:
        pass


sys.modules[__name__].__class__ = _Room
