"""Scores for traces: `Scorer` in Python, `prm score` on the command line.

A trace's scores depend on its prompt and its own steps alone: neither on what else is in its batch (traces
that share a prefix share its computation, which changes nothing) nor on its later steps. Answers that are
still being written are scored step by step with `Scorer.start`.

Several models make an `Ensemble`, which scores like one. Where its members disagree the data they learnt from
says least, so a label there teaches most: `prm score --disagreement` lists those traces (query by committee;
Seung, Opper and Sompolinsky 1992).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from prm.errors import InputError
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
            model.to(device)  # type: ignore[arg-type]  # mypy binds no method in functools.wraps
        return cls(model, tokenizer, max_tokens_per_batch=max_tokens_per_batch, cache_bytes=cache_bytes)

    def start(self, prompt: Trace) -> Branch:
        """Begin an answer that is scored while it is written (see `prm.inference.branches`): the question and
        schema of `prompt`, and the steps that it has already.
        """
        return self.branches.start(prompt)

    def extend(self, steps: Sequence[tuple[Branch, str]]) -> list[float]:
        """Add a step to each of several branches, in one forward; the score of each."""
        return self.branches.extend(steps)

    @overload
    def score(
        self, traces: Sequence[Trace], *, drop_long: Literal[False] = False, progress: bool = False
    ) -> list[list[float]]: ...

    @overload
    def score(
        self, traces: Sequence[Trace], *, drop_long: bool, progress: bool = False
    ) -> list[list[float] | None]: ...

    @torch.inference_mode()
    def score(
        self, traces: Sequence[Trace], *, drop_long: bool = False, progress: bool = False
    ) -> list[list[float] | None] | list[list[float]]:
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
        ordered = [one for one in encoded if one is not None]
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


Combine = Literal["mean", "min", "median", "lcb", "odds"]
#: A score of exactly 0 or 1 has no finite odds; this is the logarithm of one in a thousand million.
MAX_LOG_ODDS = 20.7


def combine_scores(rows: Sequence[Sequence[float]], combine: Combine = "mean", k: float = 1.0) -> list[float]:
    """One list of scores out of the lists of several models for the same steps.

    - `mean`, `min`, `median`
    - `lcb`: the lower confidence bound, mean minus `k` standard deviations, not below 0: a step is only as
      good as all models are sure that it is (Coste et al. 2024, "Reward Model Ensembles Help Mitigate
      Overoptimization", arXiv:2310.02743, and others)
    - `odds`: the product of the odds, which is what independent witnesses amount to at even prior odds. It
      wants calibrated members: every checkpoint's own temperature does that. Members that learnt from the
      same data are not independent, so its scores lie closer to 0 and 1 than they should.
    """
    table = np.array(rows, dtype=np.float64)
    if combine == "mean":
        combined = table.mean(0)
    elif combine == "min":
        combined = table.min(0)
    elif combine == "median":
        combined = np.median(table, 0)
    elif combine == "lcb":
        combined = np.maximum(table.mean(0) - k * table.std(0), 0.0)
    elif combine == "odds":
        with np.errstate(divide="ignore"):
            logits = (np.log(table) - np.log1p(-table)).clip(-MAX_LOG_ODDS, MAX_LOG_ODDS).sum(0)
        combined = 0.5 * (1 + np.tanh(0.5 * logits))  # the sigmoid in the form that cannot overflow
    else:
        raise InputError(f"an ensemble combines by {', '.join(get_args(Combine))}, not {combine!r}")
    return combined.tolist()


def disagreement(rows: Sequence[Sequence[float]]) -> list[float]:
    """The standard deviation of several models' scores, for each step: in [0, 0.5]."""
    return np.array(rows, dtype=np.float64).std(0).tolist()


class Ensemble:
    """Several scorers that score like one; they may differ in backbone, tokenizer and lengths.

    >>> ensemble = Ensemble.from_pretrained(["runs/a/checkpoint", "runs/b/checkpoint"])  # doctest: +SKIP
    >>> ensemble.score(traces)
    [[0.97]]

    Args:
        combine, k: how their scores become one, see `combine_scores`.
    """

    def __init__(self, scorers: Sequence[Scorer], combine: Combine = "mean", k: float = 1.0) -> None:
        if not scorers:
            raise InputError("an ensemble needs at least one model")
        if k < 0:
            raise InputError(f"the lower confidence bound wants k of at least 0, not {k}")
        combine_scores([[0.5]], combine, k)  # refuses a name that it does not know
        self.scorers, self.combine, self.k = list(scorers), combine, k

    @classmethod
    def from_pretrained(
        cls,
        paths_or_ids: Sequence[str | os.PathLike[str]],
        *,
        combine: Combine = "mean",
        k: float = 1.0,
        **kwargs: Any,
    ) -> Ensemble:
        """Load several checkpoints; `kwargs` as in `Scorer.from_pretrained`, the same for all of them."""
        return cls([Scorer.from_pretrained(path, **kwargs) for path in paths_or_ids], combine, k)

    @overload
    def score(
        self, traces: Sequence[Trace], *, drop_long: Literal[False] = False, progress: bool = False
    ) -> list[list[float]]: ...

    @overload
    def score(
        self, traces: Sequence[Trace], *, drop_long: bool, progress: bool = False
    ) -> list[list[float] | None]: ...

    def score(
        self, traces: Sequence[Trace], *, drop_long: bool = False, progress: bool = False
    ) -> list[list[float] | None] | list[list[float]]:
        """As `Scorer.score`; with `drop_long`, None for a trace that any of the members cannot read."""
        rows = self.member_scores(traces, drop_long=drop_long, progress=progress)
        return [None if each is None else combine_scores(each, self.combine, self.k) for each in rows]

    def member_scores(
        self, traces: Sequence[Trace], *, drop_long: bool = False, progress: bool = False
    ) -> list[list[list[float]] | None]:
        """The scores of every member: for each trace a list of their lists, or None where one cannot read it.

        Of these, `combine_scores` and `disagreement` are made.
        """
        columns = [s.score(traces, drop_long=drop_long, progress=progress) for s in self.scorers]
        rows = [list(each) for each in zip(*columns, strict=True)]
        return [None if any(row is None for row in each) else each for each in rows]

    def start(self, prompt: Trace) -> EnsembleBranch:
        """Begin an answer that is scored while it is written, as `Scorer.start`."""
        return EnsembleBranch(self, [scorer.start(prompt) for scorer in self.scorers])

    def extend(self, steps: Sequence[tuple[EnsembleBranch, str]]) -> list[float]:
        """Add a step to each of several branches, in one forward of each member; the score of each.

        Raises:
            InputError: a branch becomes longer than a member can read. Then none is extended.
            ValueError: a branch was dropped, or is named twice.
        """
        branches = [branch for branch, _ in steps]
        if len({id(branch) for branch in branches}) < len(branches):
            raise ValueError("a branch is named twice; fork it")
        longer = [[member.fork() for member in branch.members] for branch in branches]
        columns = [
            scorer.extend([(mine[i], text) for mine, (_, text) in zip(longer, steps, strict=True)])
            for i, scorer in enumerate(self.scorers)
        ]
        for branch, mine in zip(branches, longer, strict=True):  # only now: a member may refuse a step
            branch.members = mine
        return [
            combine_scores([[score] for score in row], self.combine, self.k)[0]
            for row in zip(*columns, strict=True)
        ]


class EnsembleBranch:
    """An answer in the making, read by every member of an ensemble; used like a `Branch`."""

    def __init__(self, ensemble: Ensemble, members: list[Branch]) -> None:
        self._ensemble, self.members = ensemble, members

    def extend(self, step: str) -> float:
        """Add a step; its score. Several branches at once are cheaper: `Ensemble.extend`."""
        (score,) = self._ensemble.extend([(self, step)])
        return score

    def fork(self) -> EnsembleBranch:
        """A second branch with the same prompt and steps; nothing is copied."""
        return EnsembleBranch(self._ensemble, [member.fork() for member in self.members])

    def drop(self) -> None:
        """Forget the branch; what no other branch stands on leaves the memory."""
        for member in self.members:
            member.drop()

    @property
    def steps(self) -> list[str]:
        return self.members[0].steps

    @property
    def scores(self) -> list[float]:
        """P(no error up to and including each step), as `Ensemble.score` gives them."""
        ensemble = self._ensemble
        return combine_scores([member.scores for member in self.members], ensemble.combine, ensemble.k)

    @property
    def disagreement(self) -> list[float]:
        """The standard deviation of the members' scores, for each step."""
        return disagreement([member.scores for member in self.members])


def load_scorer(
    models: Sequence[str],
    *,
    combine: Combine = "mean",
    k: float = 1.0,
    revisions: Sequence[str] | None = None,
    base_models: Sequence[str] | None = None,
    foreign: Sequence[str] | None = None,
    step_separators: Sequence[str] | None = None,
    **kwargs: Any,
) -> Scorer | Ensemble:
    """What `--model`, given once or several times, means: a scorer or an ensemble.

    Args:
        revisions, base_models, foreign, step_separators: one for each model, in their order, empty ("auto" of
            `foreign`) for a model that needs none; or None.
        kwargs: as in `Scorer.from_pretrained`.

    Raises:
        InputError: there are more or fewer of these than models; a checkpoint cannot be loaded.
    """
    own: list[dict[str, Any]] = [{} for _ in models]
    for option, name, given in (
        ("--revision", "revision", revisions),
        ("--base-model", "base_model_name_or_path", base_models),
        ("--foreign", "foreign", foreign),
        ("--step-separator", "step_separator", step_separators),
    ):
        if given and len(given) != len(models):
            raise InputError(
                f"{option} is given {len(given)} times for {len(models)} --model; give one for each of them"
            )
        for its, value in zip(own, given or (), strict=False):
            if value and (name, value) != ("foreign", "auto"):
                its[name] = value
    scorers = [Scorer.from_pretrained(model, **its, **kwargs) for model, its in zip(models, own, strict=True)]
    return scorers[0] if len(scorers) == 1 else Ensemble(scorers, combine, k)


def score_file(
    models: Sequence[str],
    data: Sequence[str],
    output: str,
    *,
    labels: str,
    on_bad_rows: str,
    to_label: int | None = None,
    **loading: Any,
) -> None:
    """`prm score`: the traces of `data` with their `scores`, in the same order, and of several models their
    `disagreement`.

    Args:
        to_label: list so many traces that are most worth labelling next, and write them to
            `<output>.to_label.jsonl`.
        loading: as in `load_scorer`.
    """
    if to_label is not None and len(models) < 2:
        raise InputError("--disagreement wants several --model: one model agrees with itself")
    traces = load_traces(list(data), labels=labels, on_bad_rows=on_bad_rows)
    scorer = load_scorer(models, **loading)
    worth: list[tuple[float, Trace]] = []
    n = write_traces(_kept(scored(scorer, traces, on_bad_rows=on_bad_rows), worth), output)
    print(f"{n:,} scored traces -> {output}")
    if to_label is not None:
        _list_to_label(most_worth_labelling(worth, to_label), Path(f"{output}.to_label.jsonl"))


def scored(scorer: Scorer | Ensemble, traces: list[Trace], *, on_bad_rows: str) -> Iterator[Trace]:
    """`traces` with their scores (and, by an ensemble, `disagreement`); an iterator, so that the output file
    is opened before the work.

    Raises:
        InputError: a trace is longer than the backbone can read, and `on_bad_rows` is "stop"; or all are.
    """
    drop_long = on_bad_rows == "skip"
    if isinstance(scorer, Scorer):
        scores = scorer.score(traces, drop_long=drop_long, progress=True)
        yield from (
            replace(trace, scores=row) for trace, row in zip(traces, scores, strict=True) if row is not None
        )
        return
    rows = scorer.member_scores(traces, drop_long=drop_long, progress=True)
    for trace, row in zip(traces, rows, strict=True):
        if row is not None:
            extra = trace.extra | {"disagreement": disagreement(row)}
            yield replace(trace, scores=combine_scores(row, scorer.combine, scorer.k), extra=extra)


def _kept(traces: Iterator[Trace], worth: list[tuple[float, Trace]]) -> Iterator[Trace]:
    """Pass `traces` on, and note those that a label would tell something about."""
    for trace in traces:
        unlabelled = [
            value
            for value, label in zip(trace.extra.get("disagreement", ()), trace.labels, strict=False)
            if label is None
        ]
        if unlabelled:
            worth.append((max(unlabelled), trace))
        yield trace


def most_worth_labelling(worth: Sequence[tuple[float, Trace]], n: int) -> list[tuple[float, Trace]]:
    """The `n` traces with the largest disagreement, largest first, and of each question one at most: the
    answers to one question share steps, so that labelling one of them tells of the others."""
    chosen: dict[str, tuple[float, Trace]] = {}
    for value, trace in sorted(worth, key=lambda each: -each[0]):  # stable: ties in the order of the file
        chosen.setdefault(trace.question_key, (value, trace))
    return list(chosen.values())[:n]


def _list_to_label(chosen: Sequence[tuple[float, Trace]], file: Path) -> None:
    if not chosen:
        print("every step has a label already: there is nothing to label")
        return
    table = Table(
        title=f"most worth labelling next: the models disagree on {len(chosen)} traces most",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("disagreement", justify="right", no_wrap=True)
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("trace")
    for value, trace in chosen:
        at = trace.extra["disagreement"].index(value)
        name = trace.id or (f"{trace.place[0]}:{trace.place[1]}" if trace.place else "")
        table.add_row(f"{value:.3f}", str(at), Text(f"{name}  {' '.join(trace.question.split())[:100]}"))
    Console(highlight=False).print(table)
    write_traces((trace for _, trace in chosen), file)
    print(file)
