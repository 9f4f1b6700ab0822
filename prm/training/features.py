"""A frozen backbone runs once, not once an epoch.

What the head reads of a frozen backbone never changes, so the states at the step ends are computed once
(through token trees, each process a share) and training, evaluation during training and resuming read them
from then on. The file they are kept in is named by a fingerprint of everything they depend on: the base
model, its dtype, and the token ids and step ends themselves. Another prompt, tokenizer or data set is another
name; a stale file cannot be used.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from prm.modeling.process_reward_model import ProcessRewardModel
from prm.training.batching import INPUTS, EncodedTraces, Forwards


@torch.no_grad()
def add_features(
    dataset: EncodedTraces,
    model: ProcessRewardModel,
    *,
    folder: Path,
    pad_id: int,
    max_tokens: int,
    share: bool,
    progress: bool = True,
) -> None:
    """Set `dataset.features`: (n_steps, hidden_size) for each trace, in the backbone's dtype, on the CPU."""
    if dataset.features is not None or not len(dataset):
        return
    state = PartialState()
    file = folder / f"{_fingerprint(dataset, model)}.safetensors"
    lengths = [len(trace.step_ends) for trace in dataset.traces]
    flat = _read(file, rows=sum(lengths))
    if flat is None:
        forwards = Forwards(dataset, pad_id=pad_id, max_tokens=max_tokens, share=share)
        parts: list[tuple[int, torch.Tensor]] = []
        mine = range(state.process_index, len(forwards), state.num_processes)
        bar = tqdm(mine, desc="features", unit="batch", disable=not (progress and state.is_main_process))
        model.eval()
        for k in bar:
            inputs = forwards[k]
            states = model.features(
                **{key: inputs[key].to(model.device) for key in INPUTS if key in inputs}
            ).cpu()
            for member, row in zip(inputs["index"].tolist(), states, strict=True):
                parts.append((member, row[: lengths[member]].clone()))
        if state.num_processes > 1:
            parts = gather_object(parts)
        flat = torch.cat([row for _, row in sorted(parts, key=lambda part: part[0])])
        if state.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".partial")
            save_file({"features": flat}, partial)
            os.replace(partial, file)
    dataset.features = list(flat.split(lengths))


def _read(file: Path, *, rows: int) -> torch.Tensor | None:
    """The features in `file`; None where there is none, or a broken one, which is then written anew."""
    try:
        flat = load_file(file)["features"] if file.exists() else None
    except (SafetensorError, KeyError, OSError):
        return None
    return flat if flat is not None and len(flat) == rows else None


def _fingerprint(dataset: EncodedTraces, model: ProcessRewardModel) -> str:
    digest = hashlib.sha256()
    config = model.config
    about = [
        config.base_model_name_or_path,
        config.base_model_revision,
        config.base_config,
        config.backbone_dtype,
    ]
    digest.update(json.dumps(about, sort_keys=True, default=str).encode())
    # Base models in local folders have no revision: a few of the weights tell one training state from
    # another.
    for name, weight in sorted(model.backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().flatten()[:16].float().cpu().numpy().tobytes())
    for trace in dataset.traces:
        digest.update(json.dumps([trace.input_ids, trace.step_ends]).encode())
    return digest.hexdigest()[:32]
