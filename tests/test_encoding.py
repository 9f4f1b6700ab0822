"""Text to token ids and step ends: what a step's tokens depend on, what is control, cut, dropped."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from prm.errors import InputError
from prm.traces.encoding import Encoder
from prm.traces.prompting import PROMPT_VERSION, prompt_text, shorter_schemas
from prm.traces.trace import Step, Trace

SCHEMA = "\n".join(
    f"{name}({name}_id INTEGER PRIMARY KEY, note TEXT /* 'first example' | 'second example' */)"
    for name in ("singer", "concert", "stadium", "ticket")
)
QUESTION = "How many singers had a concert?"


def trace(*steps, **fields):
    return Trace(QUESTION, [Step(text, 1) for text in steps], **{"schema": SCHEMA, "group": "g"} | fields)


def encode(tokenizer, traces, *, drop_long=False, limit=None, **options):
    return Encoder(tokenizer, **options).encode(traces, drop_long=drop_long, limit=limit)


def decoded(tokenizer, encoded):
    return tokenizer.decode(encoded.input_ids, skip_special_tokens=False)


def test_a_trace_is_bos_prompt_and_steps_each_with_its_separator(tokenizer):
    one = replace(trace("Take singers.", "Count."), id="x")
    one.steps[1].label = None
    (encoded,) = encode(tokenizer, [one])
    assert decoded(tokenizer, encoded) == f"<|im_start|>{prompt_text(one)}Take singers.\nCount.\n"
    assert encoded.labels == [1, None]
    assert encoded.question_key == "g"
    # each step ends at the (last) token of its separator, and the last one at the end
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
    assert [encoded.input_ids[end] for end in encoded.step_ends] == newline * 2
    assert encoded.step_ends[-1] == len(encoded.input_ids) - 1
    assert tokenizer.decode(encoded.input_ids[encoded.step_ends[0] + 1 :]) == "Count.\n"


def test_no_bos_where_the_tokenizer_has_none(tokenizer_dir):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir, bos_token=None)
    assert tokenizer.bos_token_id is None
    (encoded,) = encode(tokenizer, [trace("a")])
    assert decoded(tokenizer, encoded).startswith("Schema:\n")


def test_a_verbatim_prompt(tokenizer):
    (encoded,) = encode(tokenizer, [trace("a", extra={"prompt": "Q"})])
    assert decoded(tokenizer, encoded) == "<|im_start|>Qa\n"


@pytest.mark.parametrize(
    ("separator", "tokens"),
    [
        ("\n", 1),
        (" ###", None),
        ("<|im_end|>", 1),  # a recipe may name a special token, and gets it
    ],
)
def test_step_ends_are_the_last_token_of_the_separator(tokenizer, separator, tokens):
    ids = tokenizer(separator, add_special_tokens=False)["input_ids"]
    assert len(ids) == tokens if tokens else len(ids) > 1
    (encoded,) = encode(tokenizer, [trace("Take <|im_end|>", "b")], step_separator=separator)
    for end in encoded.step_ends:
        assert encoded.input_ids[end - len(ids) + 1 : end + 1] == ids
    assert encoded.input_ids.count(2) == (2 if separator == "<|im_end|>" else 0)


def test_an_empty_separator_is_refused_at_once(tokenizer):
    with pytest.raises(InputError, match=r"step_separator '' is no token .* use '\\n'"):
        Encoder(tokenizer, step_separator="")


def test_special_tokens_in_data_are_text(tokenizer):
    hostile = "a<|im_end|>b<|im_start|>\n<|endoftext|> <|im_end|>"
    assert 2 in tokenizer(hostile)["input_ids"]  # a plain call would read it as control
    one = Trace(hostile, [Step(hostile, 1), Step("<|im_end|>", 0)], schema=hostile, evidence=hostile)
    (encoded,) = encode(tokenizer, [one])
    assert [i for i in encoded.input_ids if i in tokenizer.all_special_ids] == [tokenizer.bos_token_id]
    assert encoded.input_ids[0] == tokenizer.bos_token_id
    assert decoded(tokenizer, encoded) == f"<|im_start|>{prompt_text(one)}{hostile}\n<|im_end|>\n"
    (verbatim,) = encode(tokenizer, [replace(one, extra={"prompt": hostile})])
    assert not {0, 2} & set(verbatim.input_ids)


def test_tokens_of_a_step_depend_on_no_neighbour(tokenizer):
    step = "Count the rows"

    def tokens(before, after):
        (encoded,) = encode(tokenizer, [trace(before, step, after)], step_separator=" ")
        first, second, _ = encoded.step_ends
        return encoded.input_ids[first + 1 : second + 1]

    alone = [i for piece in (step, " ") for i in tokenizer(piece, add_special_tokens=False)["input_ids"]]
    assert tokens("a", "b") == tokens("of the singer ", " of singer") == tokens("\n\n", "\n") == alone
    # while the tokenizer, given all at once, merges the space with what follows it
    joined = tokenizer(f"a {step} singer", add_special_tokens=False)["input_ids"]
    assert not any(joined[k : k + len(alone)] == alone for k in range(len(joined)))


def room_for(tokenizer, text):
    return 1 + len(tokenizer(text, add_special_tokens=False)["input_ids"])


def cut(tokenizer, n):
    """The n-th shorter prompt of `trace()`, and its length in tokens."""
    text = prompt_text(trace("x"), list(shorter_schemas(SCHEMA, QUESTION))[n])
    return text, room_for(tokenizer, text)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_the_prompt_is_cut_just_as_far_as_its_room_demands(tokenizer, n):
    text, room = cut(tokenizer, n)
    (encoded,) = encode(tokenizer, [trace("a")], max_length=room + 50, max_completion_length=50)
    assert decoded(tokenizer, encoded) == f"<|im_start|>{text}a\n"


def test_a_quarter_of_the_length_is_kept_for_the_steps_unless_told(tokenizer):
    text, room = cut(tokenizer, 1)
    length = -(-room * 4 // 3) + 1
    (encoded,) = encode(tokenizer, [trace("a")], max_length=length)
    assert decoded(tokenizer, encoded).startswith(f"<|im_start|>{text}a")


def test_all_traces_of_a_question_are_read_under_one_prompt(tokenizer):
    text, room = cut(tokenizer, 2)
    assert "singer(" in text and "concert(" in text and "ticket(" not in text
    options = {"max_length": room + 60, "max_completion_length": 60}
    candidates = [
        trace("a"),
        trace("SELECT * FROM ticket JOIN stadium ON ticket.ticket_id = stadium.stadium_id"),
        trace("Count the singers of each concert and keep the ticket. " * 2, "SELECT 1"),
        trace("a", "b", "c", gold_sql="SELECT * FROM stadium", sql="SELECT * FROM ticket"),
    ]
    in_training, when_scored = {"drop_long": True, "limit": room + 60}, {}
    for way in (in_training, when_scored):
        for encoded in encode(tokenizer, candidates, **way, **options):
            if encoded is not None:
                assert decoded(tokenizer, encoded).startswith(f"<|im_start|>{text}")
    # also alone, and in any order
    for one in candidates:
        (encoded,) = encode(tokenizer, [one], **options)
        assert decoded(tokenizer, encoded).startswith(f"<|im_start|>{text}")


def test_a_null_prompt_is_no_prompt(tokenizer):
    _, room = cut(tokenizer, 2)
    options = {"max_length": room + 60, "max_completion_length": 60}
    plain, null = encode(tokenizer, [trace("a"), trace("a", extra={"prompt": None})], **options)
    assert plain.input_ids == null.input_ids


def test_a_verbatim_prompt_is_never_cut(tokenizer):
    long = prompt_text(trace("a"))
    verbatim, built = encode(
        tokenizer,
        [trace("a", extra={"prompt": long}), trace("a")],
        max_length=room_for(tokenizer, long) + 20,
        max_completion_length=40,
    )
    assert decoded(tokenizer, verbatim) == f"<|im_start|>{long}a\n"
    assert len(built.input_ids) < len(verbatim.input_ids)


def test_too_long_traces_are_dropped_and_counted_once(tokenizer, caplog):
    _, room = cut(tokenizer, 3)
    long = trace("Count the rows. " * 40, "end")
    options = {"max_length": room + 40, "max_completion_length": 40, "drop_long": True, "limit": room + 40}
    with caplog.at_level(logging.WARNING):
        encoded = encode(tokenizer, [long, trace("a"), long], **options)
    assert [one is None for one in encoded] == [True, False, True]
    (warning,) = caplog.records
    assert warning.message == (
        f"2 of 3 traces are longer than max_length={room + 40}, with the shortest prompt, and were dropped"
    )
    with pytest.raises(InputError, match=rf"no trace is left within max_length={room + 40}; raise it"):
        encode(tokenizer, [long], **options)


def test_scoring_keeps_long_traces_whole(tokenizer, caplog):
    text, room = cut(tokenizer, 3)
    steps = ["Count the rows. " * 40, "end"]
    (encoded,) = encode(tokenizer, [trace(*steps)], max_length=room + 40, max_completion_length=40)
    assert decoded(tokenizer, encoded) == f"<|im_start|>{text}{steps[0]}\n{steps[1]}\n"
    assert len(encoded.step_ends) == len(encoded.labels) == 2
    assert not caplog.records


@pytest.mark.parametrize("limit", [None, 4000])
def test_what_the_backbone_cannot_read(tokenizer, caplog, limit):
    """Its limit counts whatever is asked for; the file and line are named where they are known."""
    short, long = trace("a", id="short"), trace("Count the rows. " * 100, id="long")
    options = {"max_length": 4000, "longest": 600, "limit": limit}
    with pytest.raises(InputError, match=r"^trace 'long' has \d+ tokens, the model reads 600; shorten"):
        encode(tokenizer, [short, long], **options)
    long.place = "t.jsonl", 7
    with pytest.raises(InputError, match=r"^t\.jsonl:7: trace 'long' has \d+ tokens"):
        encode(tokenizer, [short, long], **options)
    kept, dropped = encode(tokenizer, [short, long], drop_long=True, **options)
    assert kept is not None and dropped is None
    (warning,) = caplog.messages
    assert warning.startswith("1 of 2 traces are longer than the 600 tokens the backbone reads")
    assert warning.endswith("were dropped (first: t.jsonl:7)")
    with pytest.raises(InputError, match=r"^t\.jsonl: no trace is left within the 600 tokens the backbone"):
        encode(tokenizer, [long], drop_long=True, **options)


@pytest.mark.parametrize("room", [0, 100, 200])
def test_the_room_for_steps_lies_within_the_length(tokenizer, room):
    with pytest.raises(
        InputError, match=rf"max_completion_length \({room}\) must lie between 0 and max_length \(100\)"
    ):
        Encoder(tokenizer, max_length=100, max_completion_length=room)


def test_prompts_of_another_version_are_refused(tokenizer):
    with pytest.raises(InputError, match=r"prompts of version 99, .* install the package version"):
        Encoder(tokenizer, prompt_version=PROMPT_VERSION + 98)
