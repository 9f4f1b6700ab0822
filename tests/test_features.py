"""States of a frozen backbone: computed once, kept in shards, never wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from prm.errors import InputError
from prm.training import features
from prm.training.batching import EncodedTraces
from prm.training.features import FeatureStore, fingerprint, spread, trace_key


@pytest.fixture
def encoded(tokenizer, traces):
    from prm.traces.encoding import Encoder

    return Encoder(tokenizer).encode(traces, drop_long=False)


@pytest.fixture
def model(make_model):
    return make_model("llama", backbone="frozen")


def store(model, folder, max_tokens=200):
    """A store that counts the tokens its backbone reads, in `store.read`."""
    one = FeatureStore(folder, model, pad_id=2, max_tokens=max_tokens, progress=False)
    one.read = []
    return one


def states(one, traces):
    dataset = EncodedTraces(traces)
    count = one.model.backbone.register_forward_pre_hook(
        lambda _, args, kwargs: one.read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    with count:
        one.add_to(dataset)
    return dataset.features


def by_hand(model, trace):
    """One sequence, no tree, no cache."""
    with torch.no_grad():
        return model.backbone(input_ids=torch.tensor([trace.input_ids])).last_hidden_state[0][trace.step_ends]


def test_features_are_the_states_at_the_step_ends(model, encoded, tmp_path):
    for trace, rows in zip(encoded, states(store(model, tmp_path), encoded), strict=True):
        torch.testing.assert_close(rows, by_hand(model, trace), rtol=1e-5, atol=1e-5)


def test_they_are_read_from_then_on_by_whoever_names_the_folder(model, make_model, encoded, tmp_path):
    first = store(model, tmp_path)
    made = states(first, encoded)
    assert sum(first.read) > 0
    again = store(make_model("llama", backbone="frozen"), tmp_path)
    for one, other in zip(states(again, encoded), made, strict=True):
        assert torch.equal(one, other)
    assert not again.read


def test_only_what_is_new_is_computed(model, encoded, tmp_path):
    states(store(model, tmp_path), encoded[:5])  # the first question
    more = store(model, tmp_path)
    states(more, encoded)
    alone = store(model, tmp_path / "other")
    states(alone, encoded[5:])
    assert sum(more.read) == sum(alone.read)


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="who maps what, as Linux says it")
def test_shards_are_mapped_not_copied(model, encoded, tmp_path):
    kept = states(store(model, tmp_path), encoded)
    (shard,) = tmp_path.glob("*/*.safetensors")
    assert str(shard) in Path("/proc/self/maps").read_text()
    assert len({rows.untyped_storage().data_ptr() for rows in kept}) == 1


@pytest.mark.parametrize("harm", ["truncated", "emptied", "one bit", "no checksum"])
def test_a_broken_shard_is_made_anew(model, encoded, tmp_path, harm):
    made = [rows.clone() for rows in states(store(model, tmp_path), encoded)]
    (shard,) = tmp_path.glob("*/*.safetensors")
    good = shard.read_bytes()
    shard.unlink()  # the mapped one stays what it was
    if harm == "no checksum":
        from safetensors.torch import load, save_file

        save_file(load(good), shard)
    elif harm == "one bit":
        shard.write_bytes(good[:-100] + bytes([good[-100] ^ 1]) + good[-99:])
    else:
        shard.write_bytes(good[: len(good) // 2] if harm == "truncated" else b"")
    again = store(model, tmp_path)
    for one, other in zip(states(again, encoded), made, strict=True):
        assert torch.equal(one, other)
    assert again.read and shard.read_bytes() == good


def test_an_extraction_that_was_killed_goes_on(model, encoded, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SHARD_BYTES", 0)  # a shard for each forward that ends a trace
    whole = store(model, tmp_path / "whole", max_tokens=60)
    made = states(whole, encoded)
    killed = store(model, tmp_path / "killed", max_tokens=60)

    def die(*_):
        if len(killed.read) == len(whole.read) - 1:
            raise KeyboardInterrupt

    hook = model.backbone.register_forward_hook(die)
    with pytest.raises(KeyboardInterrupt):
        states(killed, encoded)
    hook.remove()
    assert 1 < len(list((tmp_path / "killed").glob("*/*"))) < len(list((tmp_path / "whole").glob("*/*")))
    rest = store(model, tmp_path / "killed", max_tokens=60)
    for one, other in zip(states(rest, encoded), made, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert 0 < sum(rest.read) < sum(whole.read)


def test_no_other_backbone_shares_a_fingerprint(make_model):
    first = make_model("llama", backbone="frozen")
    assert fingerprint(first) == fingerprint(make_model("llama", backbone="frozen"))
    changed = make_model("llama", backbone="frozen")
    changed.backbone.layers[1].mlp.up_proj.weight.data[3, 5] += 1e-6  # any weight of any layer
    others = [
        changed,
        make_model("llama", backbone="frozen", dtype="bfloat16"),
        make_model("llama", backbone="frozen", backbone_layers=1),
        make_model("llama", backbone="frozen", changes={"rope_theta": 5000.0}),
        make_model("qwen2", backbone="frozen"),
    ]
    assert len({fingerprint(model) for model in [first, *others]}) == 6


def test_no_other_tokens_or_step_ends_share_a_key(encoded):
    from dataclasses import replace

    trace = encoded[0]
    others = [
        replace(trace, input_ids=[*trace.input_ids[:-1], 0]),
        replace(trace, input_ids=trace.input_ids[:-1]),
        replace(trace, step_ends=trace.step_ends[1:]),
        replace(trace, step_ends=[n - 1 for n in trace.step_ends]),
        encoded[1],
    ]
    assert len({trace_key(one) for one in [trace, *others]}) == 6
    assert trace_key(trace) == trace_key(replace(trace, labels=[0, 0], question_key="other"))


def test_a_folder_that_cannot_be_written_is_named(model, encoded, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"features_dir .*file.* cannot be made"):
        states(store(model, tmp_path / "file"), encoded)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
def test_a_full_disk_is_named_and_leaves_nothing_half_written(model, encoded, tmp_path, monkeypatch):
    def full(*_, **__):
        with open("/dev/full", "wb") as file:
            file.write(b"0")

    monkeypatch.setattr(features, "save_file", full)
    with pytest.raises(InputError, match=r"cannot keep features in .*No space left.*make room"):
        states(store(model, tmp_path), encoded)
    assert not list(tmp_path.glob("*/*"))


def test_a_sample_is_spread_evenly():
    rows = [torch.full((2, 1), float(k)) for k in range(10)]
    assert spread(rows, 20).shape == (20, 1)
    assert spread(rows, 7).flatten().tolist() == [0, 0, 3, 3, 6, 6, 9, 9]
