"""Why gold cannot judge a question, and an answer has no label: the words of all ways of labelling."""

from __future__ import annotations

from prm.sql.database import SQLError

#: Why a question cannot be labelled by execution.
GOLD_FAULTS = {
    "gold_fails": "gold SQL does not run",
    "gold_timeout": "gold SQL outlives its time",
    "gold_too_large": "gold gives too many rows",
    "gold_empty": "gold gives no rows, so nothing could tell right from wrong",
}
#: Why an answer that is equal on the database has no label.
UNDECIDED = "the answer is equal on the database, but was not compared on all variants"


def gold_fault(error: SQLError) -> str:
    """The key of `GOLD_FAULTS` for gold that gives no rows but an error."""
    return {"timeout": "gold_timeout", "too_large": "gold_too_large"}.get(error.kind, "gold_fails")
