"""The one exception that means "your input, not our code".

The command line turns an `InputError` into a single line on stderr and exit status 2. Its message therefore
stands
alone: it names the file and line where there is one, what is wrong, and how to mend it.
"""

from __future__ import annotations


class InputError(ValueError):
    """Bad usage or bad input: `message` says what is wrong and the mend; `file` and `line` (from 1) where it
    is.
    """

    def __init__(self, message: str, *, file: str | None = None, line: int | None = None) -> None:
        where = "" if file is None else f"{file}: " if line is None else f"{file}:{line}: "
        super().__init__(where + message)
        self.file, self.line = file, line
