"""Policies: what a server is sent and how its faults are met; sampling that hangs on a request alone."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from scripted_server import Raw, asked, chat, serving

from prm.cli import main
from prm.errors import InputError
from prm.inference import policies
from prm.inference.policies import (
    STOPS,
    Answered,
    Completion,
    Failed,
    Request,
    Sampling,
    ServerPolicy,
    StartsOver,
    TransformersPolicy,
    answer_prompt,
    answer_steps,
    continued,
    form_of,
    prefix_text,
    through_stop,
    trimmed,
)
from prm.traces.answer import split_answer
from prm.traces.formats import load_traces, write_traces
from prm.traces.trace import Step, Trace

SMOLLM2 = Path(__file__).resolve().parent.parent / "models" / "smollm2-135m"
TRACE = Trace("How many?", [Step("x")], schema="singer(name TEXT)", evidence="all of them")


def server_policy(url, **options):
    return ServerPolicy(url, "m", Sampling(0.5, 0.9, 20), **{"tries": 3, "timeout": 5.0} | options)


def answers(policy, *requests):
    return dict(policy.answer(requests))


@pytest.fixture
def no_waiting(monkeypatch):
    """Back-off in hundredths of its seconds."""
    monkeypatch.setattr(policies, "BACKOFF", 0.01)


# Answers in steps

KEEP = Step("Keep cats.\ncats AS (SELECT * FROM t)", sql="cats AS (SELECT * FROM t)")


@pytest.mark.parametrize("form", ["sentences", "cte"])
def test_the_prompt_shows_the_form_and_the_trace(form):
    prompt = answer_prompt(TRACE, form)
    assert prompt.endswith("Schema:\nsinger(name TEXT)\nEvidence: all of them\nQuestion: How many?\nSteps:\n")
    answer = split_answer(prompt.split("database:\n")[1])  # the example is what the parser reads
    assert [step.name for step in answer.steps][-1] == ""
    assert all(bool(step.sentence) == (form == "sentences") for step in answer.steps)


def test_a_prefix_reads_as_the_beginning_of_an_answer():
    more = Step("Name them.\nnamed AS (SELECT name FROM cats)", sql="named AS (SELECT name FROM cats)")
    assert prefix_text([KEEP, more], "sentences") == f"{KEEP.text}\n\n{more.text}\n\n"
    ctes = [Step(step.sql, sql=step.sql) for step in (KEEP, more)]
    assert prefix_text(ctes, "cte") == f"WITH {KEEP.sql},\n\n{more.sql}"
    assert (prefix_text([], "cte"), prefix_text([], "sentences")) == ("", "")
    assert (form_of(ctes), form_of([KEEP, more]), form_of([*ctes, KEEP])) == ("cte", "sentences", "sentences")
    answer = split_answer(prefix_text(ctes, "cte") + "\n\nSELECT 1")
    assert answer_steps(answer, "cte")[:2] == ctes
    answer = split_answer(prefix_text([KEEP, more], "sentences") + "All.\nSELECT 1")
    assert answer_steps(answer, "sentences")[:2] == [KEEP, more]


@pytest.mark.parametrize(
    ("prefix", "text", "cut", "sql"),
    [
        ([], "SELECT 1", False, "SELECT 1"),
        ([KEEP], "\n\nSELECT * FROM cats", False, "WITH cats AS (SELECT * FROM t)\nSELECT * FROM cats"),
        (
            [KEEP],
            ",\n\nb AS (SELECT 1)\n\nSELECT 2;",
            True,
            "WITH cats AS (SELECT * FROM t),\nb AS (SELECT 1)\nSELECT 2",
        ),
        ([KEEP], "SELECT * FROM ca", True, None),  # cut within the statement, or perhaps not: nobody knows
        ([KEEP], "I do not know.", False, None),
        ([KEEP], "b AS (SELECT 1)", False, None),
        ([Step("Think of cats.")], "SELECT 1", False, "SELECT 1"),  # a step without SQL
        (  # it says again what it was given
            [KEEP],
            "WITH cats AS (SELECT *\n FROM t), b AS (SELECT 1) SELECT 3",
            False,
            "WITH cats AS (SELECT * FROM t),\nb AS (SELECT 1)\nSELECT 3",
        ),
        ([KEEP], "WITH Cats AS (SELECT 5) SELECT 1", False, StartsOver),
    ],
)
def test_a_continuation_is_put_behind_its_prefix(prefix, text, cut, sql):
    if sql is StartsOver:
        with pytest.raises(StartsOver):
            continued(prefix, Completion(text, cut=cut))
    else:
        assert continued(prefix, Completion(text, cut=cut)) == sql


@pytest.mark.parametrize(
    ("text", "prefix", "own"),
    [
        ("a b", "", "a b"),
        (" one two", "one ", " two"),  # an echo
        ("two", "one", "two"),
        ("SELECT 1\nQuestion: next?\nSteps:", "", "SELECT 1"),
        ("SELECT 1\nSchema:\nt\nQuestion: x", "", "SELECT 1"),
    ],
)
def test_what_is_not_the_completions_own_goes(text, prefix, own):
    assert trimmed(text, prefix) == own


# A server


def test_what_a_server_is_sent(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\n")
    request = Request("p", "so far", seed=7)
    common = {"model": "m", "temperature": 0.5, "top_p": 0.9, "max_tokens": 20, "seed": 7}
    expected = {
        "chat": common
        | {
            "messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "so far"}],
            "add_generation_prompt": False,
            "continue_final_message": True,
        },
        "completions": common | {"prompt": "p\nso far", "stop": list(STOPS)},
    }
    for api in ("chat", "completions", "chat-ask"):
        body = {"choices": [{"text": "t"}]} if api == "completions" else chat("t")
        with serving(lambda *_, body=body: body) as server:
            got = answers(server_policy(server.url + "/", api=api), request)
            ((path, headers, sent),) = server.log
        assert got[0].completions[0].text == "t"
        assert headers["Authorization"] == "Bearer sk-secret"
        assert path == ("/v1/completions" if api == "completions" else "/v1/chat/completions")
        if api == "chat-ask":
            (message,) = sent["messages"]
            assert message["role"] == "user" and "so far" in message["content"]
            assert "continue_final_message" not in sent
        else:
            assert sent == expected[api]


def test_a_new_answer_and_no_key_need_nothing_special(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(lambda *_: chat("t")) as server:
        answers(server_policy(server.url), Request("p"))
        ((_, headers, sent),) = server.log
    assert "Authorization" not in headers
    assert sent["messages"] == [{"role": "user", "content": "p"}]
    assert "continue_final_message" not in sent and "n" not in sent


def test_n_samples_are_had_from_any_server():
    with serving(lambda body, _: chat(*(["a", "b", "c"][: body["n"]]))) as server:
        got = answers(server_policy(server.url), Request("p", seed=4, n=3))
        assert [c.text for c in got[0].completions] == ["a", "b", "c"]
        assert len(server.log) == 1
        assert (got[0].prompt_tokens, got[0].completions[0].tokens) == (100, 5)
    with serving(lambda _, number: chat(str(number))) as server:  # knows no n
        got = answers(server_policy(server.url), Request("p", seed=4, n=3))
        assert [c.text for c in got[0].completions] == ["0", "1", "2"]
        assert [body["seed"] for _, _, body in server.log] == [4, 5, 6]


@pytest.mark.parametrize(
    ("body", "text", "cut"),
    [
        (chat("t", finish="length"), "t", True),
        (chat(None), "", False),
        (chat([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), "ab", False),
        ({"choices": [{"message": {"content": "no usage"}}]}, "no usage", False),
        ({"choices": [{"message": {"content": "null usage"}}], "usage": None}, "null usage", False),
        (b'{"choices": [{"message": {"content": "half \\ud83d"}}]}', "half \ufffd", False),
    ],
)
def test_answers_of_many_shapes(body, text, cut):
    with serving(lambda *_: body) as server:
        (completion,) = answers(server_policy(server.url), Request("p"))[0].completions
    assert (completion.text, completion.cut) == (text, cut)


TORN = b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n" + json.dumps(chat("torn")).encode()[:50]


@pytest.mark.parametrize(
    "fault",
    [
        (429, {}, b"slow down"),
        (500, {}, b"<html>oops</html>"),
        (503, {}, {"error": {"message": "loading"}}),
        (408, {}, b""),
        (200, {}, b"{not json"),
        (200, {}, {"choices": []}),
        (200, {}, {"choices": [{"message": {"content": 5}}]}),
        (200, {}, {"choices": [{}]}),
        (200, {}, []),
        Raw(TORN),
        Raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\nabc"),
        Raw(b""),
        Raw(b"nonsense\r\n\r\n"),
    ],
)
def test_what_passes_is_tried_again(fault, no_waiting):
    with serving(lambda _, number: fault if number < 2 else chat("at last")) as server:
        got = answers(server_policy(server.url), Request("p"))
        assert got[0].completions[0].text == "at last"
        assert len(server.log) == 3


def test_waiting_doubles_with_jitter_up_to_a_minute():
    for attempt, seconds in [(0, 1), (1, 2), (2, 4), (5, 32), (6, 60), (50, 60)]:
        waits = [policies._pause(attempt, None) for _ in range(200)]
        assert 0.5 * seconds <= min(waits) < 0.7 * seconds and 1.3 * seconds < max(waits) <= 1.5 * seconds


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [("7", 7, 7), ("0", 0, 0), ("999999", 600, 600), ("-3", 0, 0), ("date", 18, 20), ("past", 0, 0)]
    + [(nonsense, None, None) for nonsense in ("soon", "", "nan", None)],
)
def test_a_server_may_say_when_to_come_back(value, low, high):
    dates = {"date": timedelta(seconds=20), "past": timedelta(days=-1)}
    if value in dates:
        value = format_datetime(datetime.now(UTC) + dates[value], usegmt=True)
    wait = policies._retry_after(value)
    assert wait is None if low is None else low <= wait <= high


def test_retry_after_is_kept(no_waiting):
    times = []

    def answer(_, number):
        times.append(time.monotonic())
        return (429, {"Retry-After": "1"}, b"") if number == 0 else chat("ok")

    with serving(answer) as server:
        answers(server_policy(server.url), Request("p"))
    assert 1 <= times[1] - times[0] < 5


def test_a_fault_that_stays_fails_the_request_alone(no_waiting):
    def answer(body, _):
        return (500, {}, {"error": {"message": "no luck"}}) if asked(body)[0] == "bad" else chat("ok")

    with serving(answer) as server:
        got = answers(server_policy(server.url), Request("good"), Request("bad"), Request("good"))
        assert len(server.log) == 5
    assert [type(got[i]) for i in range(3)] == [Answered, Failed, Answered]
    assert got[1] == Failed("500: no luck (3 tries)", refused=False)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_a_server_refuses_is_not_tried_again(status):
    with serving(lambda *_: (status, {}, {"detail": "Unexpected fields"})) as server:
        got = answers(server_policy(server.url), Request("p"))
        assert len(server.log) == 1
    assert got[0] == Failed(f"{status}: Unexpected fields", refused=True)


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (401, {}, "does not let us in (401: key … is wrong); OPENAI_API_KEY was refused"),
        (403, {}, "does not let us in (403"),
        (404, {}, "404 from http://127.0.0.1:"),
        (405, {}, "check --base-url (it mostly ends in /v1), --model"),
        (302, {"Location": "http://elsewhere.example/v1"}, "redirects to http://elsewhere.example/v1"),
        (307, {"Location": "/v2"}, "redirects to /v2"),
    ],
)
def test_what_nobody_can_mend_by_waiting_ends_the_run(status, headers, message, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with serving(lambda *_: (status, headers, {"error": {"message": "key sk-secret is wrong"}})) as server:
        with pytest.raises(InputError) as caught:
            answers(server_policy(server.url), Request("p"), Request("q"))
        assert all(path == "/v1/chat/completions" for path, _, _ in server.log)  # nothing was followed
    assert message in str(caught.value)
    assert "sk-secret" not in str(caught.value)


def test_a_slow_server_and_a_dripping_one_are_given_up(no_waiting):
    def drip(*_):
        if not server.log[1:]:
            time.sleep(1)
        return chat("late")

    with serving(drip) as server:
        got = answers(server_policy(server.url, timeout=0.3, tries=1), Request("p"))
    assert "gave no whole answer within 0.3 s" in got[0].why and not got[0].refused
    listener = socket.create_server(("127.0.0.1", 0))

    def trickle():
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(200):  # ten seconds
                try:
                    connection.sendall(b" ")
                except OSError:
                    return
                time.sleep(0.05)

    thread = threading.Thread(target=trickle, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    began = time.monotonic()
    got = answers(server_policy(url, timeout=0.5, tries=1), Request("p"))
    assert time.monotonic() - began < 8  # each byte came in time, the answer did not
    assert "gave no whole answer within 0.5 s" in got[0].why
    thread.join()
    listener.close()


def test_nobody_there(no_waiting):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    got = answers(server_policy(f"http://127.0.0.1:{port}/v1"), Request("p"))
    assert "cannot be reached" in got[0].why and "(3 tries)" in got[0].why


def test_requests_run_side_by_side():
    barrier = threading.Barrier(4, timeout=30)

    def answer(*_):
        barrier.wait()
        return chat("together")

    with serving(answer) as server:
        got = answers(server_policy(server.url, concurrency=4), *[Request(str(i)) for i in range(8)])
    assert [got[i].completions[0].text for i in range(8)] == ["together"] * 8


@pytest.mark.parametrize(
    ("url", "options", "key", "message"),
    [
        ("localhost:8000", {}, "k", "must look like http://localhost:8000/v1"),
        ("ftp://h/v1", {}, "k", "must look like"),
        ("http://", {}, "k", "must look like"),
        ("http://user:pw@h/v1", {}, "k", "no user, password or query"),
        ("http://h/v1?key=1", {}, "k", "no user, password or query"),
        ("http://h/v1", {"api": "soap"}, "k", "--api must be one of"),
        ("http://h/v1", {"timeout": 0.0}, "k", "more than 0 seconds"),
        ("http://h/v1", {}, "k\r\nX: y", "the key in OPENAI_API_KEY holds characters"),
        ("http://h/v1", {}, "schlüssel", "the key in OPENAI_API_KEY holds characters"),
    ],
)
def test_bad_settings(url, options, key, message, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(InputError, match=message) as caught:
        server_policy(url, **options)
    assert "pw" not in str(caught.value) and (key == "k" or key not in str(caught.value))


@pytest.mark.parametrize("values", [(-1, 1, 5), (float("nan"), 1, 5), (1, 0, 5), (1, 1.1, 5), (1, 1, 0)])
def test_bad_sampling(values):
    with pytest.raises(InputError):
        Sampling(*values)


def test_a_server_needs_no_torch():
    code = (
        "import sys, prm.labeling.monte_carlo, prm.labeling.judge\n"
        "from prm.inference.policies import ServerPolicy, Sampling\n"
        "ServerPolicy('http://h/v1', 'm', Sampling())\n"
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


# One step of an answer

STEP = Request("p", "one\n\n", seed=7, stop="\n\n", greedy=True, max_new_tokens=5)


def test_what_a_server_is_asked_for_a_step():
    for api, stop in (("chat", ["\n\n"]), ("chat-ask", ["\n\n"]), ("completions", ["\n\n", *STOPS])):
        body = {"choices": [{"text": "t"}]} if api == "completions" else chat("t")
        with serving(lambda *_, body=body: body) as server:
            answers(server_policy(server.url, api=api), STEP)
            ((_, _, sent),) = server.log
        assert (sent["stop"], sent["temperature"], sent["max_tokens"]) == (stop, 0.0, 5)


def said(text, finish="stop", **more):
    body = chat(text, finish=finish)
    body["choices"][0] |= more
    return body


@pytest.mark.parametrize(
    ("body", "text", "stopped", "cut"),
    [
        (said("two"), "two\n\n", True, False),  # most leave the stop out, and do not say what was met
        (said("two\n\n"), "two\n\n", True, False),
        (said("two\n\nthree\n\n"), "two\n\n", True, False),  # it ignores the stop
        (said("\n\ntwo\n\nthree"), "two\n\n", True, False),  # what leads is no step
        (said("two", stop_reason="\n\n"), "two\n\n", True, False),  # vLLM
        (said("two", stop_reason=None), "two", False, False),  # vLLM: the answer ends
        (said("two", "length"), "two", False, True),
        (said("two\n\nthr", "length"), "two\n\n", True, False),
        (said("", stop_reason=None), "", False, False),
        (said("one\n\ntwo\n\n"), "two\n\n", True, False),  # an echo of the prefix
    ],
)
def test_a_step_of_any_server(body, text, stopped, cut):
    with serving(lambda *_: body) as server:
        got = answers(server_policy(server.url), STEP)[0].completions[0]
        assert len(server.log) == 1
    assert (got.text, got.stopped, got.cut) == (text, stopped, cut)


@pytest.mark.parametrize("reason", [{}, {"stop_reason": "\n\n"}])
def test_a_prefix_that_a_template_strips(reason):
    """The model then writes the blank line again, which ends the step: it is asked without the stop."""

    def answer(body, _):
        return said("", **reason) if "stop" in body else chat("\n\ntwo\n\nthree", tokens=6)

    with serving(answer) as server:
        got = answers(server_policy(server.url), STEP)[0]
        assert len(server.log) == 2
    assert (got.completions[0].text, got.completions[0].stopped) == ("two\n\n", True)
    assert (got.completions[0].tokens, got.prompt_tokens) == (11, 200)  # both were paid for


# A model in this process


@pytest.fixture(scope="module")
def tiny(tiny_model_dir):
    def make(**options):
        sampling = Sampling(**{"temperature": 1.0, "max_new_tokens": 8} | options.pop("sampling", {}))
        return TransformersPolicy(str(tiny_model_dir()), sampling, dtype="float32", **options)

    return make


REQUESTS = [
    Request("How many singers?", "", 1, n=3),
    Request("How many singers?", "", 2, n=2),
    Request("How many singers?", "S1 AS (SELECT name FROM singer)", 1, n=3),
    Request("Take the years of all the concerts, please.", "", 3),
]


def test_a_sample_hangs_on_its_request_alone(tiny):
    policy = tiny(batch_size=16)
    together = answers(policy, *REQUESTS)
    assert [len(together[i].completions) for i in range(4)] == [3, 2, 3, 1]
    policy.width = 2
    assert answers(policy, *REQUESTS) == together
    policy.width = 1
    alone = [answers(policy, request)[0] for request in REQUESTS]
    assert alone == [together[i] for i in range(4)]
    texts = {c.text for answer in alone for c in answer.completions}
    assert len(texts) == 9  # every seed and sample is its own


def test_temperature_0_is_greedy(tiny):
    policy = tiny(sampling={"temperature": 0.0})
    first, second = answers(policy, Request("a b", seed=1, n=2), Request("a b", seed=2)).values()
    (greedy,) = {c.text for c in [*first.completions, *second.completions]}
    ids = policy.tokenizer("a b", return_tensors="pt", add_special_tokens=False)["input_ids"]
    import torch

    bos = torch.tensor([[policy.tokenizer.bos_token_id]])
    out = policy.model.generate(torch.cat([bos, ids], 1), max_new_tokens=8, do_sample=False)
    new = out[0, ids.shape[1] + 1 :].tolist()
    assert greedy == policy.tokenizer.decode([t for t in new if t != policy.tokenizer.eos_token_id])


def test_long_answers_of_one_batch_are_those_of_plain_generation(tiny):
    """Their keys outgrow the memory that they were given several times."""
    import torch

    policy = tiny(sampling={"temperature": 0.0, "max_new_tokens": 80}, batch_size=4)
    prompts = ["a b", "How many singers?", "Take the years of all the concerts, please."]
    together = answers(policy, *(Request(prompt, n=1) for prompt in prompts))
    for i, prompt in enumerate(prompts):
        ids = torch.tensor([policy._ids(prompt, "")])
        out = policy.model.generate(ids, max_new_tokens=80, do_sample=False)[0, ids.shape[1] :].tolist()
        (one,) = together[i].completions
        assert one.tokens == len(out)
        assert one.text == policy.tokenizer.decode(out, skip_special_tokens=True)
    assert max(answer.completions[0].tokens for answer in together.values()) == 80


def test_tokens_are_drawn_as_often_as_they_should_be():
    import torch

    from prm.inference.policies import _OwnStream

    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, float("-inf")]])
    n = 4000
    for top_p in (1.0, 0.9):
        stream = _OwnStream(Sampling(0.7, top_p), [5])
        drawn = Counter(int(stream(None, logits).argmax()) for _ in range(n))
        chances = (logits[0] / 0.7).softmax(-1)
        if top_p < 1:  # 0.763 + 0.183 = 0.946 is the first to pass 0.9
            chances = torch.tensor([*chances[:2], 0, 0, 0]) / chances[:2].sum()
        for token, chance in enumerate(chances.tolist()):
            assert abs(drawn[token] / n - chance) < 4 * (0.25 / n) ** 0.5
            assert chance > 0 or drawn[token] == 0


@pytest.mark.parametrize("stop", ["a", "on"])
def test_a_step_is_the_beginning_of_the_answer(tiny, stop):
    """It ends behind the stop, and is what the same request without a stop begins with."""
    policy = tiny(sampling={"max_new_tokens": 40})
    whole = [Request("How many singers?", "", seed, n=2) for seed in range(6)]
    steps = [replace(request, stop=stop) for request in whole]
    got, full = answers(policy, *whole, *steps), answers(policy, *whole)
    n = 0
    for i in range(6):
        assert got[i] == full[i]
        for step, text in zip(got[6 + i].completions, full[i].completions, strict=True):
            expected = through_stop(text.text, stop)
            assert (step.text, step.stopped) == ((text.text, False) if expected is None else (expected, True))
            assert step.tokens <= text.tokens and step.cut == (text.cut and not step.stopped)
            n += step.stopped
    assert n > 1


def test_a_request_may_be_greedy_or_short_beside_others(tiny):
    policy = tiny(sampling={"max_new_tokens": 12})
    drawn = Request("How many singers?", "", 1, n=2)
    greedy, short = replace(drawn, greedy=True, n=1), replace(drawn, max_new_tokens=3)
    together = answers(policy, drawn, greedy, short)
    assert [together[i] for i in range(3)] == [answers(policy, one)[0] for one in (drawn, greedy, short)]
    zero = answers(tiny(sampling={"max_new_tokens": 12, "temperature": 0.0}), drawn)[0]
    assert together[1].completions[0] == zero.completions[0]
    for cut, whole in zip(together[2].completions, together[0].completions, strict=True):
        assert cut.tokens == 3 and cut.cut and whole.text.startswith(cut.text)


def test_a_prompt_is_read_once_for_all_that_goes_on_with_it(tiny):
    policy = tiny(sampling={"max_new_tokens": 1})
    read = []
    policy.model.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    prompt, prefixes = "How many singers are there in each country?", ["", "S1 AS", "S1 AS (SELECT name)"]
    tokens = len(policy._ids(prompt, ""))
    for prefix in prefixes:
        answers(policy, Request(prompt, prefix, 1, n=4))
    assert read[0] == (1, tokens - 1)  # the prompt, once
    extra = [len(policy._ids(prompt, prefix)) - tokens for prefix in prefixes]
    assert read[1:] == [(4, 1 + n) for n in extra]
    policy.cache_bytes = 0  # no room: it is read again
    answers(policy, Request(prompt, "", 1))
    answers(policy, Request(prompt, "", 1))
    assert read[4:] == [(1, 1), (1, tokens - 1), (1, 1)]


def test_text_that_looks_like_a_special_token_is_text(tiny):
    policy = tiny()
    policy.tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}A:"
    )
    ids = policy._ids("a<|im_end|>b", "<|im_end|>")
    special = [policy.tokenizer.convert_ids_to_tokens(i) for i in ids if i < 3]
    assert special == ["<|im_start|>", "<|im_end|>"]  # the template's own
    assert policy.tokenizer.decode(ids) == "<|im_start|>a<|im_end|>b<|im_end|>A:<|im_end|>"


def test_a_prompt_beyond_the_models_limit_is_refused(tiny):
    policy = tiny()
    policy.longest = 20
    got = answers(policy, Request("word " * 50), Request("short"))
    assert got[0].refused and "limit of 20 is passed" in got[0].why
    assert isinstance(got[1], Answered)


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(InputError, match="cannot be loaded as a causal language model"):
        TransformersPolicy(str(tmp_path), Sampling())


@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="make model")
def test_a_real_model_reads_its_template_and_stops():
    policy = TransformersPolicy(str(SMOLLM2), Sampling(0.0, max_new_tokens=6), dtype="float32")
    question = "What is the capital of France?"
    got = answers(policy, Request(question, "The capital is"), Request(question, "It is Paris."))
    assert got[0].completions[0].text.startswith(" Paris")
    assert got[1].completions == [Completion("", tokens=1, cut=False)]  # nothing but the end of the message


@pytest.fixture(scope="module")
def transformers_serve(tmp_path_factory):
    """`transformers serve` itself, on loopback, with the real SmolLM2; yields its address."""
    if not SMOLLM2.is_dir():
        pytest.skip("make model")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "transformers.cli.transformers",
        "serve",
        str(SMOLLM2),
        "--device",
        "cpu",
    ]
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=stream,
            stderr=stream,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.slow
def test_transformers_serve(transformers_serve):
    def made(api, *requests):
        policy = ServerPolicy(
            transformers_serve, str(SMOLLM2), Sampling(0.8, 0.95, 8), api=api, concurrency=1, tries=1
        )
        return answers(policy, *requests)

    plain = made("completions", Request("The capital of France is", "", seed=3, n=2))
    assert len(plain[0].completions) == 2  # it knows no n
    assert all(c.text and c.tokens and c.cut for c in plain[0].completions)
    assert made("completions", Request("The capital of France is", "", seed=3, n=2)) == plain
    asked_for = made("chat-ask", Request("Name a colour.", "", seed=1), Request("Name two.", "Red", seed=1))
    assert all(asked_for[i].completions[0].text for i in (0, 1))
    refused = made("chat", Request("Name two.", "Red"))[0]
    assert refused.refused and "continue_final_message" in refused.why
    with pytest.raises(InputError, match="404"):  # the address lacks its /v1
        policy = ServerPolicy(transformers_serve.removesuffix("/v1"), str(SMOLLM2), Sampling())
        answers(policy, Request("p"))


@pytest.mark.slow
def test_a_step_of_transformers_serve(transformers_serve):
    policy = ServerPolicy(
        transformers_serve, str(SMOLLM2), Sampling(0.0, 1.0, 24), api="completions", concurrency=1, tries=1
    )
    asked = Request("One, two, three, four, five.\nOne, two,", "", seed=1)
    whole, step = answers(policy, asked, replace(asked, stop=", ")).values()
    assert not whole.completions[0].stopped and step.completions[0].stopped
    assert step.completions[0].text == through_stop(whole.completions[0].text, ", ")
    assert 0 < step.completions[0].tokens < whole.completions[0].tokens


@pytest.mark.slow
def test_prm_rollout_and_judge_with_transformers_serve(transformers_serve, tmp_path):
    """The whole way: questions -> answers of a served model -> labels -> verdicts -> consensus."""
    with sqlite3.connect(tmp_path / "zoo.sqlite") as connection:
        connection.execute("CREATE TABLE animal (name TEXT, species TEXT)")
        connection.execute("INSERT INTO animal VALUES ('Tom', 'cat')")
    connection.close()
    steps = [
        Step("cats AS (SELECT * FROM animal)", sql="cats AS (SELECT * FROM animal)"),
        Step("SELECT 7", sql="SELECT 7"),
    ]
    about = {"db_id": "zoo", "gold_sql": "SELECT COUNT(*) FROM animal"}
    right = [steps[0], Step("SELECT COUNT(*) FROM cats", sql="SELECT COUNT(*) FROM cats")]
    traces = [Trace("How many animals?", s, id=i, **about) for i, s in (("wrong", steps), ("right", right))]
    write_traces(traces, tmp_path / "t.jsonl")
    given = ["--data", tmp_path / "t.jsonl", "--databases", tmp_path, "--model", SMOLLM2]
    given += ["--base-url", transformers_serve, "--concurrency", "2", "--api", "completions"]
    output = tmp_path / "rolled.jsonl"
    rollouts = ["--rollouts", "3", "--max-new-tokens", "24", "--labels", "soft"]
    assert main(["rollout", *map(str, given), "--output", str(output), *rollouts]) == 0
    statistics = json.loads(Path(f"{output}.stats.json").read_text())
    assert statistics["rollouts"] == 3 and statistics["tokens"] > 3  # the two share their only prefix
    found = statistics["outcomes"].get("right", 0)
    wrong, right = load_traces(output)
    assert wrong.labels == [found / 3, 0] and right.labels == [found / 3 or 1 / 4, 1]
    first = output.read_bytes()
    assert main(["rollout", *map(str, given), "--output", str(output), *rollouts]) == 0
    assert output.read_bytes() == first
    judged = ["judge", *map(str, given), "--output", str(tmp_path / "judged.jsonl"), "--max-new-tokens", "24"]
    assert main([*judged, "--tries", "1"]) == 0
    unjudged = load_traces(tmp_path / "judged.jsonl")
    assert [trace.labels for trace in unjudged] == [[None, None]] * 2  # 24 tokens of it are no verdict
    agreed = [
        "consensus",
        str(output),
        str(tmp_path / "judged.jsonl"),
        "--output",
        str(tmp_path / "both.jsonl"),
    ]
    assert main(agreed) == 2  # and so nothing is agreed on


@pytest.mark.slow
def test_answers_sampled_from_transformers_serve(transformers_serve, tmp_path):
    """Hard labels by binary search for answers that the served model writes itself. So small a model seldom
    writes one; whatever it writes is accounted for, and a second run asks for nothing again."""
    with sqlite3.connect(tmp_path / "zoo.sqlite") as connection:
        connection.execute("CREATE TABLE animal (name TEXT, species TEXT)")
        connection.execute("INSERT INTO animal VALUES ('Tom', 'cat')")
    connection.close()
    gold = {"question": "Name all animals.", "sql": "SELECT name FROM animal", "database": "zoo.sqlite"}
    (tmp_path / "q.jsonl").write_text(json.dumps(gold) + "\n", encoding="utf-8")
    output = tmp_path / "own.jsonl"
    arguments = ["rollout", "--layout", "table", "--root", tmp_path / "q.jsonl", "--model", SMOLLM2]
    arguments += ["--base-url", transformers_serve, "--concurrency", "2", "--api", "chat", "--samples", "6"]
    arguments += ["--form", "cte", "--rollouts", "2", "--labels", "hard", "--search", "binary"]
    arguments += ["--max-new-tokens", "48", "--output", output]
    ends = main(list(map(str, arguments)))
    told = json.loads(Path(f"{output}.stats.json").read_text())
    written = told["answers"] + told["samples_without_answer"] + told["samples_repeated"]
    assert written == 6 and told["tokens"] > 6 and ends == (0 if told["answers"] else 2)
    for trace in load_traces(output) if ends == 0 else []:
        assert trace.label_source.startswith("monte-carlo") and trace.labels[-1] in (0, 1)
    assert main(list(map(str, arguments))) == ends
    again = json.loads(Path(f"{output}.stats.json").read_text())
    assert again["requests_from_journal"] >= 6 and again["outcomes"] == told["outcomes"]
