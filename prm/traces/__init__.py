"""Labelled traces: the data structure, files and formats, prompt text, token ids, token trees."""

from prm.traces.trace import Step, Trace

__all__ = ["Step", "Trace"]
