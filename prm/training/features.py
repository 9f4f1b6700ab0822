"""A frozen backbone reads each trace once: not once an epoch, and not once a run.

What the head reads of a frozen backbone never changes, so the states at the step ends are computed once
(through token trees, each process a share) and kept in shards: safetensors files that training maps into
memory and reads from then on, any number of epochs, heads and losses long. Evaluation and resuming read them,
too, and so do other runs that are given the same `features_dir`.

A trace is found by its token ids and step ends, in the folder of a backbone that is named by a fingerprint of
its configuration and all its weights. So another prompt, tokenizer, step separator or backbone finds nothing,
and a new data set computes only what is new in it. Each shard carries a checksum; one that is broken or cut
off is computed anew, and a run that was killed goes on behind its last whole shard.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import xxhash
from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

from prm.errors import InputError
from prm.modeling.process_reward_model import ProcessRewardModel
from prm.modeling.reading import step_states
from prm.modeling.sharding import is_cut_up, whole
from prm.traces.encoding import EncodedTrace
from prm.traces.tree import in_token_order
from prm.training.batching import EncodedTraces

#: A shard is written when it has so many bytes, or so many seconds were worked for it.
SHARD_BYTES, SHARD_SECONDS = 64 << 20, 60.0
KEY_BYTES = 16

States = dict[bytes, torch.Tensor]  # (n_steps, hidden_size) of a trace, by its key


class FeatureStore:
    """The states of one frozen backbone in one folder.

    Args:
        folder: where shards are kept; several runs may share it, at the same time, too.
        pad_id, max_tokens: how it is read, see `step_states`.
    """

    def __init__(
        self,
        folder: Path,
        model: ProcessRewardModel,
        *,
        pad_id: int,
        max_tokens: int,
        progress: bool = True,
    ) -> None:
        self.model = model
        self.folder = folder / fingerprint(model)
        self.pad_id, self.max_tokens, self.progress = pad_id, max_tokens, progress

    def add_to(self, dataset: EncodedTraces) -> None:
        """Set `dataset.features`: (n_steps, hidden_size) for each trace, in the backbone's dtype, on the CPU.

        Every process must call it. What is not known yet is computed.
        """
        if dataset.features is not None or not len(dataset):
            return
        state = PartialState()
        keys = [trace_key(trace) for trace in dataset.traces]
        wanted = dict(zip(keys, dataset.traces, strict=True))
        known = self._read(wanted)
        # All have looked before one writes, and what one lacks all compute: their disks need not be the same.
        lacking = set(gather_object([key for key in wanted if key not in known]))
        missing = {key: trace for key, trace in wanted.items() if key in lacking}
        if missing:
            self._compute(missing, rank=state.process_index, processes=state.num_processes)
            state.wait_for_everyone()
            known |= self._read(missing)
            # Of processes that do not see each other's files, each needs all states for itself.
            missing = {key: trace for key, trace in missing.items() if key not in known}
            if missing:
                self._compute(missing, rank=0, processes=1)
                known |= self._read(missing)
        dataset.features = [known[key] for key in keys]

    @torch.no_grad()
    def _compute(self, traces: dict[bytes, EncodedTrace], *, rank: int, processes: int) -> None:
        keys, wanted = list(traces), list(traces.values())
        order = in_token_order(wanted)  # neighbours share most: each process gets its stretch
        # ZeRO-3 exchanges weights in every forward: all processes read all, one of each machine keeps it.
        together = any(map(is_cut_up, self.model.parameters()))
        if together:
            rank, processes = 0, 1
        keeps = not together or PartialState().is_local_main_process
        mine = order[rank * len(order) // processes : (rank + 1) * len(order) // processes]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"features_dir {self.folder} cannot be made ({error.strerror})") from error
        self.model.eval()
        states: States = {}
        size, since = 0, time.monotonic()
        quiet = not (self.progress and rank == 0)
        with tqdm(total=len(mine), desc="features", unit="trace", disable=quiet) as bar:
            for members, rows in step_states(
                self.model, [wanted[k] for k in mine], pad_id=self.pad_id, max_tokens=self.max_tokens
            ):
                for member, row in zip(members, rows, strict=True):
                    states[keys[mine[member]]] = row.cpu()
                    size += row.nbytes
                bar.update(len(members))
                if size > SHARD_BYTES or time.monotonic() > since + SHARD_SECONDS:
                    self._write(states, keeps)
                    states, size, since = {}, 0, time.monotonic()
        if states:
            self._write(states, keeps)

    def _write(self, states: States, keeps: bool) -> None:
        if not keeps:
            return
        keys = b"".join(states)
        tensors = {
            "features": torch.cat(list(states.values())),
            "keys": torch.from_numpy(np.frombuffer(keys, dtype=np.uint8).copy()).view(-1, KEY_BYTES),
            "steps": torch.tensor([len(rows) for rows in states.values()]),
        }
        file = self.folder / f"{hashlib.blake2b(keys, digest_size=12).hexdigest()}.safetensors"
        partial = file.with_suffix(f".{os.getpid()}.partial")
        try:
            save_file(tensors, partial, metadata={"checksum": _checksum(tensors)})
            os.replace(partial, file)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"cannot keep features in {self.folder} ({error}); make room, or give another features_dir; "
                "what is there already will not be computed again"
            ) from error
        finally:
            partial.unlink(missing_ok=True)

    def _read(self, wanted: dict[bytes, EncodedTrace]) -> States:
        """What the shards have of the wanted traces, as views into mapped files."""
        found: States = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            found |= {key: rows for key, rows in _states(file) if key in wanted}
        return found


def _states(file: Path) -> Iterator[tuple[bytes, torch.Tensor]]:
    """The traces of a shard; none of a broken one."""
    try:
        with safe_open(file, framework="pt") as shard:
            tensors = {name: shard.get_tensor(name) for name in ("features", "keys", "steps")}
            whole = (shard.metadata() or {}).get("checksum") == _checksum(tensors)
    except (SafetensorError, OSError):
        return
    if whole:
        keys = (bytes(key) for key in tensors["keys"].numpy())
        yield from zip(keys, tensors["features"].split(tensors["steps"].tolist()), strict=True)


def trace_key(trace: EncodedTrace) -> bytes:
    """What the states of a trace depend on, besides the backbone: its tokens and where its steps end."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for numbers in (trace.step_ends, trace.input_ids):
        digest.update(np.array([len(numbers), *numbers], dtype="<i8").tobytes())
    return digest.digest()


def fingerprint(model: ProcessRewardModel) -> str:
    """A name for a backbone: its configuration and every one of its weights.

    They are read, for a base model in a local folder may change without its name: by XXH3, which a core runs
    at the speed of memory, twenty times that of a cryptographic hash. Nobody is to be kept from forging one.
    """
    digest = xxhash.xxh3_128()
    config = {
        name: value for name, value in model.config.base_config.items() if name != "transformers_version"
    }
    digest.update(json.dumps([config, model.config.backbone_layers], sort_keys=True, default=str).encode())
    parameters = dict(model.backbone.named_parameters(remove_duplicate=False))
    for name, weight in sorted(model.backbone.state_dict().items()):
        with whole([parameters.get(name, weight)]):
            weight = parameters.get(name, weight)
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(_bytes(weight))
    return digest.hexdigest()


def _checksum(tensors: dict[str, torch.Tensor]) -> str:
    digest = xxhash.xxh3_128()
    for name in sorted(tensors):
        digest.update(_bytes(tensors[name]))
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def spread(rows: Sequence[torch.Tensor], most: int) -> torch.Tensor:
    """Some `most` rows out of all, evenly spread, as one tensor."""
    every = -(-sum(map(len, rows)) // most)
    return torch.cat(list(rows[::every]))
