"""The progress bar of long commands: one look, one place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress(unit: str, total: int | None, done: int = 0) -> Iterator[Callable[..., None]]:
    """A bar on stderr, where that is a terminal; `done` of the `total` units were there before.

    Gives `advance(n=1, so_far=None)`: `n` more are done, and `so_far`, a text, is shown behind the bar.
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn(unit), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[so_far]}"), console=console, disable=not console.is_terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task(unit, total=total, completed=done, so_far="")

        def advance(n: int = 1, so_far: str | None = None) -> None:
            told: dict[str, Any] = {} if so_far is None else {"so_far": so_far}
            bar.update(task, advance=n, **told)

        yield advance
