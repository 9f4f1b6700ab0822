"""From encoded traces to the forwards of each process.

An optimiser step sees a fixed, seeded set of traces: questions are shuffled once an epoch, the traces of a
question stay together, and every `per_device_train_batch_size x processes x accumulation` of them are one
step. How the set is dealt to processes and micro-batches, and how a micro-batch is split into forwards,
changes neither the set nor, since the loss is a sum divided by the number of steps in the whole set, the
gradient.

Every process gets the same, constant number of micro-batches an epoch, which is what Trainer's resuming
counts in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from prm.traces.encoding import EncodedTrace
from prm.traces.trace import Trace
from prm.traces.tree import collate, padded_labels, plan_forwards, worth_sharing

#: Traces of which a head reads the features at once where it is measured.
FEATURE_BATCH = 256


class EncodedTraces(Dataset):
    """Encoded traces; of a frozen backbone also `features[i]`, (n_steps, hidden_size), once they are known.

    `sources[i]` is the trace that `traces[i]` encodes, where it will be asked for (data to be scored). A
    negative index ~i is trace i without its labels: it fills the micro-batch of a process for which no
    trace is left, so that all processes take the same number of steps.
    """

    def __init__(self, traces: Sequence[EncodedTrace], sources: Sequence[Trace] = ()) -> None:
        self.traces = list(traces)
        self.sources = list(sources)
        self.features: list[torch.Tensor] | None = None

    def __len__(self) -> int:
        return len(self.traces)

    def __getitem__(self, i: int) -> tuple[EncodedTrace, torch.Tensor | None]:
        k = i if i >= 0 else ~i
        trace = (
            self.traces[k] if i >= 0 else replace(self.traces[k], labels=[None] * len(self.traces[k].labels))
        )
        return trace, None if self.features is None else self.features[k]


class QuestionBatches(Sampler[list[int]]):
    """Micro-batches of one process: see the module docstring. `set_epoch` reshuffles."""

    def __init__(
        self,
        questions: Sequence[str],
        *,
        batch_size: int,
        accumulation: int,
        seed: int,
        rank: int,
        processes: int,
    ) -> None:
        groups: dict[str, list[int]] = {}
        for i, question in enumerate(questions):
            groups.setdefault(question, []).append(i)
        self.groups = list(groups.values())
        self.n = len(questions)
        self.parts = accumulation * processes
        self.step_size = batch_size * self.parts
        self.accumulation, self.rank, self.processes = accumulation, rank, processes
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.n // self.step_size) * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        shuffled = torch.randperm(len(self.groups), generator=generator).tolist()
        order = [i for group in shuffled for i in self.groups[group]]
        for start in range(0, self.n, self.step_size):
            step = order[start : start + self.step_size]
            bounds = [round(k * len(step) / self.parts) for k in range(self.parts + 1)]
            for micro in range(self.accumulation):
                part = micro * self.processes + self.rank
                yield step[bounds[part] : bounds[part + 1]] or [~step[0]]


class EpochLoader(DataLoader):
    """A DataLoader that tells its batch sampler the epoch, as Trainer tells it to loaders which have
    `set_epoch`.
    """

    batch_sampler: QuestionBatches

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)


class Forwards:
    """All forwards over a data set, each trace in one of them.

    `forwards[k]` is put together when it is its turn; its `index` numbers the traces as the data set does.
    """

    def __init__(self, dataset: EncodedTraces, *, pad_id: int, max_tokens: int, share: bool) -> None:
        self.dataset, self.pad_id = dataset, pad_id
        self.share = share and dataset.features is None and worth_sharing(dataset.traces)
        self.planned: list[Any]
        if dataset.features is None:
            self.planned = plan_forwards(dataset.traces, max_tokens=max_tokens, share=self.share)
        else:
            n = len(dataset)
            self.planned = [range(k, min(k + FEATURE_BATCH, n)) for k in range(0, n, FEATURE_BATCH)]

    def __len__(self) -> int:
        return len(self.planned)

    def __getitem__(self, k: int) -> dict[str, torch.Tensor]:
        dataset = self.dataset
        if dataset.features is None:
            return collate(self.planned[k], dataset.traces, self.pad_id, share=self.share)
        members = self.planned[k]
        forward = feature_batch([dataset.traces[m] for m in members], [dataset.features[m] for m in members])
        return forward | {"index": torch.tensor(members)}


class ForwardCollator:
    """A process's share of a micro-batch to the forwards it takes: trees packed up to a token budget, or
    features.
    """

    def __init__(self, *, pad_id: int, max_tokens: int, share: bool) -> None:
        self.pad_id, self.max_tokens, self.share = pad_id, max_tokens, share

    def __call__(self, items: Sequence[tuple[EncodedTrace, torch.Tensor | None]]) -> dict[str, Any]:
        """Returns `forwards` (a list of model inputs) and `labels` (flat, all of the share; Trainer counts
        them).
        """
        traces = [trace for trace, _ in items]
        features = [feature for _, feature in items if feature is not None]
        if features:  # of every trace or of none
            forwards = [feature_batch(traces, features)]
        else:
            share = self.share and worth_sharing(traces)
            planned = plan_forwards(traces, max_tokens=self.max_tokens, share=share)
            forwards = [collate(trees, traces, self.pad_id, share=share) for trees in planned]
        return {"forwards": forwards, "labels": torch.cat([f["labels"].flatten() for f in forwards])}


def feature_batch(
    traces: Sequence[EncodedTrace], features: Sequence[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """`step_features` (n_traces, n_steps, hidden_size), `labels` and `index`: the inputs of a head-only
    forward.
    """
    return {
        "step_features": torch.nn.utils.rnn.pad_sequence(list(features), batch_first=True),
        "labels": padded_labels(traces),
        "index": torch.arange(len(traces)),
    }
