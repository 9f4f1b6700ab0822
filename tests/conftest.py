"""Shared by the tests that need a model: a real byte-level BPE tokenizer and tiny models, all made here.
Databases are in `engines.py` and `small_databases.py`."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # several test processes share few cores

import pytest

pytest_plugins = ["engines", "small_databases"]

# What a shell starts in the background ignores Ctrl-C, and so would what the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

#: What the tokenizer's merges are learnt from: SQL, schema lines and plain sentences.
TEXTS = [
    "Schema:\nsinger(singer_id INTEGER PRIMARY KEY, name TEXT /* 'Joe Sharp' | 'Tim' */, age INTEGER)\n",
    "concert(concert_id INTEGER PRIMARY KEY, stadium_id INTEGER, year TEXT)\nforeign keys: a.b = c.d\n",
    "Question: How many singers are there in each country?\nSteps:\n",
    "Take the rows of singer where age is above 20.\nS1 AS (SELECT name, age FROM singer WHERE age > 20)\n",
    "Count the rows of S1 grouped by country.\nSELECT country, COUNT(*) FROM S1 GROUP BY country\n",
    "Join stadium and concert on stadium_id, keep the highest capacity, order by year, limit 1.\n",
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
FAMILIES = ("llama", "qwen2", "qwen3")


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory):
    """A fast tokenizer. Ids 0, 1, 2: `<|endoftext|>`, `<|im_start|>` (bos), `<|im_end|>` (eos and pad)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(TEXTS, trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        unk_token="<|endoftext|>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer_dir)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory, tokenizer):
    """`tiny_model_dir(family)`: folder of a tiny causal LM (llama, qwen2, qwen3) with random weights and the
    tokenizer, as a base model lies on a disk. `**changes` go into its config.
    """
    made = {}

    def make(family="llama", **changes):
        key = (family, *sorted((name, str(value)) for name, value in changes.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp(family)
            _tiny_causal_lm(family, **changes).save_pretrained(made[key])
            tokenizer.save_pretrained(made[key])
        return made[key]

    return make


def _tiny_causal_lm(family, **changes):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 2048,
        "initializer_range": 0.2,  # far from linear, so that a wrong mask or position shows
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings | changes))


@pytest.fixture(scope="session")
def make_model(tiny_model_dir):
    """`make_model(family, backbone=…, dtype=…, lora={…}, **config)`: a `ProcessRewardModel` whose head
    (and adapter) are far from their near-zero beginning, so that its scores differ from step to step.
    """

    def make(
        family="llama",
        *,
        backbone="full",
        dtype="float32",
        lora_dropout=0.0,
        lora=None,
        changes=None,
        **config,
    ):
        import torch
        from peft import LoraConfig

        from prm.modeling import ProcessRewardModel

        adapter = {"r": 4, "lora_alpha": 8, "lora_dropout": lora_dropout, "target_modules": "all-linear"}
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = ProcessRewardModel.from_backbone(
                str(tiny_model_dir(family, **changes or {})),
                backbone=backbone,
                dtype=dtype,
                peft_config=LoraConfig(**adapter | (lora or {})) if backbone in ("lora", "qlora") else None,
                **config,
            )
            torch.nn.init.normal_(model.head.out.weight, std=0.5)
            for name, weight in model.backbone.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(weight, std=0.2)
        return model

    return make


@pytest.fixture(scope="session")
def traces():
    """Eight traces of two questions: shared prompts and steps, an exact repeat, soft and missing labels."""
    from prm.traces.trace import Step, Trace

    schema = (
        "singer(singer_id INTEGER PRIMARY KEY, name TEXT /* 'Joe Sharp' | 'Timbaland' */, age INTEGER)\n"
        "concert(concert_id INTEGER PRIMARY KEY, singer_id INTEGER, year TEXT)\n"
        "foreign keys: concert.singer_id = singer.singer_id"
    )
    first = "Take the singers whose age is above 20.\nS1 AS (SELECT * FROM singer WHERE age > 20)"
    count = "Count the rows of S1.\nSELECT COUNT(*) FROM S1"
    answers = [
        [(first, 1), (count, 1)],
        [(first, 1), ("Take the name of S1.\nSELECT name FROM S1", 0)],
        [(first.replace("20", "30"), 0), (count, 0)],
        [(first, 1), (count, 1)],
        [(first, 1), ("Keep their names.\nS2 AS (SELECT name FROM S1)", 0.7), ("SELECT 1", None)],
    ]
    rows = [
        Trace(
            "How many singers are above 20?",
            [Step(*s) for s in steps],
            id=f"a{k}",
            group="a",
            db_id="concert_singer",
            schema=schema,
        )
        for k, steps in enumerate(answers)
    ]
    others = [
        [("Count the rows of concert by year.\nSELECT year, COUNT(*) FROM concert GROUP BY year", 1)],
        [("Count the rows of concert.\nSELECT COUNT(*) FROM concert", 0)],
        [("Take the years.\nS1 AS (SELECT year FROM concert)", 1), ("SELECT COUNT(*) FROM S1", 0)],
    ]
    return rows + [
        Trace(
            "How many concerts are there in each year?",
            [Step(*s) for s in steps],
            id=f"b{k}",
            group="b",
            db_id="concert_singer",
            schema=schema,
        )
        for k, steps in enumerate(others)
    ]
