"""Scores for traces: `Scorer` in Python, `prm score` on the command line.

A trace's scores depend on its prompt and its own steps alone: neither on what else is in its batch (traces
that share a prefix share its computation, which changes nothing) nor on its later steps. Answers that are
still being written are scored step by step with `Scorer.start`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from prm.inference.branches import Branch, Branches
from prm.modeling.foreign import encoder_for, load_prm
from prm.modeling.process_reward_model import ProcessRewardModel, load_tokenizer
from prm.modeling.reading import step_states
from prm.traces.formats import load_traces, write_traces
from prm.traces.trace import Trace

#: Tokens of one forward. What a larger one needs at once no longer fits the caches of a CPU (SmolLM2-135M in
#: float32, 6,000 tokens: 1.25 times as slow as 1,500 to 3,000); a GPU is idle in a smaller one.
TOKENS_ON_CPU, TOKENS = 2048, 16_384


class Scorer:
    """A model, its tokenizer and the lengths it was trained with.

    >>> scorer = Scorer.from_pretrained("runs/quickstart/checkpoint")  # doctest: +SKIP
    >>> scorer.score([Trace("How many singers are there?", [Step("Count the rows of singer.")], schema="…")])
    [[0.97]]
    """

    def __init__(
        self,
        model: ProcessRewardModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_tokens_per_batch: int | None = None,
        cache_bytes: int = 2 << 30,
    ) -> None:
        """`max_tokens_per_batch` bounds one forward of `score` (by default `TOKENS_ON_CPU` or `TOKENS`),
        `cache_bytes` the keys and values that the branches of `start` keep in memory.
        """
        self.model = model.eval()
        default = TOKENS_ON_CPU if model.device.type == "cpu" else TOKENS
        self.max_tokens_per_batch = max_tokens_per_batch or default
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self.encoder = encoder_for(model, tokenizer)
        self.branches = Branches(self.model, self.encoder, pad_id=self.pad_id, cache_bytes=cache_bytes)

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | os.PathLike[str],
        *,
        revision: str | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        max_tokens_per_batch: int | None = None,
        cache_bytes: int = 2 << 30,
        **kwargs: Any,
    ) -> Scorer:
        """Load a checkpoint folder or Hub id onto `device`: the accelerator where there is one, else the CPU.
        Process reward models of others are known by their files (see `prm.modeling.foreign`).

        Args:
            dtype: of the backbone; "auto" is the dtype in which it was saved, which gives the same scores.
            kwargs: as in `prm.modeling.foreign.load_prm` (`base_model_name_or_path`, `token`, `foreign` …).

        Raises:
            InputError: the checkpoint, its base model or its tokenizer cannot be loaded.
        """
        model = load_prm(path_or_id, revision=revision, dtype=dtype, **kwargs)
        tokenizer = load_tokenizer(path_or_id, revision=revision, **kwargs)
        if device is None:
            device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        if model.config.backbone != "qlora":  # bitsandbytes places its own weights
            model.to(device)
        return cls(model, tokenizer, max_tokens_per_batch=max_tokens_per_batch, cache_bytes=cache_bytes)

    def start(self, prompt: Trace) -> Branch:
        """Begin an answer that is scored while it is written (see `prm.inference.branches`): the question and
        schema of `prompt`, and the steps that it has already.
        """
        return self.branches.start(prompt)

    def extend(self, steps: Sequence[tuple[Branch, str]]) -> list[float]:
        """Add a step to each of several branches, in one forward; the score of each."""
        return self.branches.extend(steps)

    @torch.inference_mode()
    def score(
        self, traces: Sequence[Trace], *, drop_long: bool = False, progress: bool = False
    ) -> list[list[float] | None]:
        """One list a trace, one score in [0, 1] a step: P(no error up to and including this step).

        Args:
            drop_long: give None for a trace that is longer than the backbone can read, and warn with their
                number.

        Raises:
            InputError: a trace is longer than the backbone can read, and `drop_long` is False; or all are.
        """
        if not traces:
            return []
        encoded = self.encoder.encode(traces, drop_long=drop_long)
        kept = [i for i, one in enumerate(encoded) if one is not None]
        ordered = [encoded[i] for i in kept]
        scores: list[list[float] | None] = [None] * len(traces)
        with tqdm(total=len(kept), desc="scoring", unit="trace", disable=not progress) as bar:
            for members, states in step_states(
                self.model, ordered, pad_id=self.pad_id, max_tokens=self.max_tokens_per_batch
            ):
                logits = self.model.head(torch.cat(states)).cpu().split([len(rows) for rows in states])
                for member, row in zip(members, logits, strict=True):
                    scores[kept[member]] = self.model.scores(row).tolist()
                bar.update(len(members))
        return scores


def score_file(
    model: str,
    data: Sequence[str],
    output: str,
    *,
    max_tokens_per_batch: int | None,
    dtype: str,
    revision: str | None,
    base_model: str | None,
    trust_remote_code: bool,
    foreign: str | None,
    step_separator: str | None,
    labels: str,
    on_bad_rows: str,
) -> None:
    """`prm score`: the traces of `data` with their `scores`, in the same order."""
    traces = load_traces(list(data), labels=labels, on_bad_rows=on_bad_rows)
    scorer = Scorer.from_pretrained(
        model,
        revision=revision,
        dtype=dtype,
        max_tokens_per_batch=max_tokens_per_batch,
        base_model_name_or_path=base_model,
        trust_remote_code=trust_remote_code,
        foreign=foreign,
        step_separator=step_separator,
    )
    n = write_traces(scored(scorer, traces, on_bad_rows=on_bad_rows), output)
    print(f"{n:,} scored traces -> {output}")


def scored(scorer: Scorer, traces: list[Trace], *, on_bad_rows: str) -> Iterator[Trace]:
    """`traces` with their scores; an iterator, so that the output file is opened before the work.

    Raises:
        InputError: a trace is longer than the backbone can read, and `on_bad_rows` is "stop"; or all are.
    """
    scores = scorer.score(traces, drop_long=on_bad_rows == "skip", progress=True)
    yield from (
        replace(trace, scores=row) for trace, row in zip(traces, scores, strict=True) if row is not None
    )
