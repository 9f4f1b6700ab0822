"""`prm export --format vllm`: a short reference of vLLM's layout gives the written checkpoint our scores."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import load_file

from prm.cli import main
from prm.inference.scoring import Scorer
from prm.modeling.foreign import load_prm
from prm.traces.encoding import Encoder


@pytest.fixture(scope="module")
def qwen_tokenizer(tiny_model_dir):
    """As training has it: `AutoTokenizer` beside a qwen2 config gives Qwen's, which cuts digits otherwise."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_dir("qwen2"))


class Reference:
    """vLLM's `Qwen2ForProcessRewardModel`: `model.*`, `score` of fixed shape, softmax, pooling."""

    def __init__(self, folder):
        from transformers import Qwen2Config, Qwen2Model

        config = json.loads((folder / "config.json").read_text())
        assert config["architectures"] == ["Qwen2ForProcessRewardModel"] and config["model_type"] == "qwen2"
        config = Qwen2Config(**config)
        hidden = config.hidden_size
        weights = load_file(folder / "model.safetensors")
        self.body = Qwen2Model(config).to(weights["model.norm.weight"].dtype)
        self.score = torch.nn.Sequential(
            torch.nn.Linear(hidden, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 2)
        )
        for prefix, module in (("model.", self.body), ("score.", self.score)):
            own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
            module.load_state_dict(own)
        assert all(name.startswith(("model.", "score.")) for name in weights)
        self.pooler = json.loads((folder / "pooler_config.json").read_text())

    @torch.no_grad()
    def __call__(self, ids):
        """What `/pooling` answers: pairs of all tokens, or of those with the step tag."""
        probabilities = self.score(self.body(torch.tensor([ids])).last_hidden_state[0].float()).softmax(-1)
        if self.pooler["pooling_type"] == "STEP":
            probabilities = probabilities[torch.tensor(ids) == self.pooler["step_tag_id"]]
        return probabilities.tolist()


def exported(model, qwen_tokenizer, tmp_path, *options):
    """(checkpoint, its export) of a model."""
    model.save_pretrained(tmp_path / "checkpoint")
    qwen_tokenizer.save_pretrained(tmp_path / "checkpoint")
    command = ["export", "--model", str(tmp_path / "checkpoint"), "--format", "vllm"]
    assert main([*command, "--output", str(tmp_path / "vllm"), *options]) == 0
    return tmp_path / "checkpoint", tmp_path / "vllm"


def standardised(model):
    """A head whose input has large, unequal scales and offsets, as those of real decoders."""
    with torch.no_grad():
        generator = torch.Generator().manual_seed(5)
        model.head.shift.copy_(torch.randn(32, generator=generator) * 3)
        model.head.scale.copy_(torch.rand(32, generator=generator) * 2 + 0.05)
        model.head.out.weight.mul_(0.5)
        model.head.out.bias.fill_(-model.head.out.weight.sum() * 2)  # scores around 1/2
    return model


def close(rows, expected, tolerance=1e-4):
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, abs=tolerance)


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("lora", {}),
        ("full", {"head_hidden_size": 12}),
        ("frozen", {"backbone_layers": 1}),
    ],
    ids=str,
)
def test_scores_of_the_layout_are_ours(
    make_model, qwen_tokenizer, traces, tmp_path, capsys, backbone, options
):
    """Merged adapters, a narrow head, fewer layers; always with a standardised head and a temperature."""
    model = standardised(make_model("qwen2", backbone=backbone, **options))
    model.config.score_temperature, model.config.threshold = 1.7, 0.62
    checkpoint, folder = exported(model, qwen_tokenizer, tmp_path)
    assert "README.md" in capsys.readouterr().out
    scores = Scorer.from_pretrained(checkpoint, device="cpu").score(traces)
    reference = Reference(folder)
    rows = []
    for trace in Encoder(qwen_tokenizer).encode(traces, drop_long=False):
        pairs = reference(trace.input_ids)
        assert len(pairs) == len(trace.input_ids)  # of all tokens: the client picks
        rows.append([pairs[end][1] for end in trace.step_ends])
    close(rows, scores)
    assert len({round(score, 3) for row in rows for score in row}) > 4
    # Our own tools read what they wrote, and know its threshold.
    again = Scorer.from_pretrained(folder, device="cpu")
    close(again.score(traces), scores)
    assert again.model.config.threshold == 0.62


def test_the_readme_says_how_to_ask_and_it_works(make_model, qwen_tokenizer, tmp_path, monkeypatch):
    """Its Python is run as it stands, against a real server on loopback that answers as the layout says."""
    _, folder = exported(make_model("qwen2"), qwen_tokenizer, tmp_path)
    reference = Reference(folder)

    class Pooling(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/pooling" and request["model"] == "vllm"
            answer = json.dumps({"data": [{"index": 0, "data": reference(request["input"])}]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pooling)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
        monkeypatch.chdir(tmp_path)  # it names the folder by its name alone
        names: dict = {}
        exec(code.replace("localhost:8000", f"127.0.0.1:{server.server_port}"), names)
    finally:
        server.shutdown()
        server.server_close()
    scores = Scorer.from_pretrained(tmp_path / "checkpoint", device="cpu").score([names["trace"]])
    close([names["scores"]], scores)


def test_a_special_separator_is_the_servers_step_marker(make_model, qwen_tokenizer, traces, tmp_path):
    model = make_model("qwen2", step_separator="<|endoftext|>")
    checkpoint, folder = exported(model, qwen_tokenizer, tmp_path)
    reference = Reference(folder)
    assert reference.pooler == {"pooling_type": "STEP", "step_tag_id": 0}
    scorer = Scorer.from_pretrained(checkpoint, device="cpu")
    encoded = scorer.encoder.encode(traces, drop_long=False)
    close([[pair[1] for pair in reference(one.input_ids)] for one in encoded], scorer.score(traces))
    readme = (folder / "README.md").read_text()
    assert '\'{"pooling_type": "STEP", "step_tag_id": 0}\'' in readme and "for pair in pairs]" in readme


def test_the_config_is_for_servers_on_older_libraries_too(make_model, qwen_tokenizer, tmp_path):
    _, folder = exported(make_model("qwen2", changes={"rope_theta": 54321.0}), qwen_tokenizer, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 54321.0
    assert config["torch_dtype"] == config["dtype"] == "float32"
    assert str(tmp_path) not in (folder / "config.json").read_text() + (folder / "README.md").read_text()


def test_a_trl_classifier_on_qwen2_goes_the_same_way(qwen_tokenizer, traces, tmp_path):
    from transformers import AutoConfig, AutoModelForTokenClassification

    config = AutoConfig.for_model(
        "qwen2",
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_labels=2,
    )
    AutoModelForTokenClassification.from_config(config).save_pretrained(tmp_path / "trl")
    qwen_tokenizer.save_pretrained(tmp_path / "trl")
    command = ["export", "--model", str(tmp_path / "trl"), "--format", "vllm"]
    assert main([*command, "--output", str(tmp_path / "vllm")]) == 0
    scorer = Scorer.from_pretrained(tmp_path / "trl", device="cpu")
    reference, rows = Reference(tmp_path / "vllm"), []
    for one in scorer.encoder.encode(traces, drop_long=False):
        pairs = reference(one.input_ids)
        rows.append([pairs[end][1] for end in one.step_ends])
    close(rows, scorer.score(traces))


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("llama", {}, "stands on qwen2 backbones, and this is llama"),
        ("qwen3", {}, "stands on qwen2 backbones, and this is qwen3"),
        ("qwen2", {"loss": "first_error"}, "trained with loss first_error, and its scores are products"),
        ("qwen2", {"head_hidden_size": 33}, "head has 33 hidden units, and the layout has room for 32"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_with_the_reason(
    make_model, qwen_tokenizer, tmp_path, capsys, family, options, message
):
    make_model(family, backbone="frozen", **options).save_pretrained(tmp_path / "checkpoint")
    qwen_tokenizer.save_pretrained(tmp_path / "checkpoint")
    command = ["export", "--model", str(tmp_path / "checkpoint"), "--format", "vllm"]
    assert main([*command, "--output", str(tmp_path / "vllm")]) == 2
    (error,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("prm: "))
    assert message in error
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]  # nothing half-written


def test_nothing_is_overwritten(make_model, qwen_tokenizer, tmp_path, capsys):
    _, folder = exported(make_model("qwen2"), qwen_tokenizer, tmp_path)
    before = sorted(path.stat().st_mtime_ns for path in folder.iterdir())
    command = ["export", "--model", str(tmp_path / "checkpoint"), "--format", "vllm", "--output", str(folder)]
    assert main(command) == 2
    assert "exists already; name a new folder" in capsys.readouterr().err
    assert sorted(path.stat().st_mtime_ns for path in folder.iterdir()) == before


def test_four_bit_weights_are_made_dense(make_model, qwen_tokenizer, traces, tmp_path):
    """The adapters were trained over what the 4-bit weights stand for: merged are those."""
    checkpoint, folder = exported(make_model("qwen2", backbone="qlora"), qwen_tokenizer, tmp_path)
    scores = Scorer.from_pretrained(checkpoint, device="cpu").score(traces)
    reference, rows = Reference(folder), []
    for one in Encoder(qwen_tokenizer).encode(traces, drop_long=False):
        pairs = reference(one.input_ids)
        rows.append([pairs[end][1] for end in one.step_ends])
    close(rows, scores)
    assert load_prm(folder).config.prompt_version == 1
