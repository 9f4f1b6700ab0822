"""The page of `prm serve`, as a person uses it: a real Chromium, driven by the WebDriver protocol."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request

import pytest
from test_serving import QUESTION, SCHEMA, STEPS, running, trace, until

from prm.inference.scoring import Scorer

pytestmark = pytest.mark.skipif(
    not shutil.which("chromedriver"), reason="wants chromium and chromedriver (Debian: chromium-driver)"
)


class Browser:
    """As much of https://www.w3.org/TR/webdriver2/ as is needed here."""

    def __init__(self, url):
        self.url = url
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options = {"goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self.post("/session", capabilities={"alwaysMatch": {"browserName": "chrome"} | options})
        self.url += "/session/" + session["sessionId"]

    def post(self, path, **body):
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.load(response)["value"]

    def do(self, script, *arguments):
        return self.post("/execute/sync", script=script, args=arguments)

    def type(self, name, text):
        (element,) = self.post("/element", using="css selector", value=f"#{name}").values()
        self.post(f"/element/{element}/clear")
        self.post(f"/element/{element}/value", text=text)

    def press(self):
        (element,) = self.post("/element", using="css selector", value="#go").values()
        self.post(f"/element/{element}/click")
        until(lambda: self.message() not in ("", "…"))

    def message(self):
        return self.do("return document.getElementById('message').textContent")

    def steps(self):
        return self.do(
            "return [...document.querySelectorAll('#result li')].map(item => ["
            "item.querySelector('pre').textContent, item.querySelector('b').textContent, "
            "getComputedStyle(item).borderLeftColor, item.className])"
        )

    def end(self):
        urllib.request.urlopen(urllib.request.Request(self.url, method="DELETE"), timeout=60).close()


@pytest.fixture(scope="module")
def browser():
    driver = subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        port = next(
            found[1] for line in driver.stdout if (found := re.search(r"successfully on port (\d+)", line))
        )
        browser = Browser(f"http://127.0.0.1:{port}")
        try:
            yield browser
        finally:
            with contextlib.suppress(OSError):
                browser.end()
    finally:
        driver.kill()
        driver.wait()


@pytest.fixture(scope="module")
def scorer(make_model, tokenizer):
    scorer = Scorer(make_model("llama"), tokenizer)
    # Between two steps' scores, so that one of them is the first error.
    scorer.model.config.threshold = sum(sorted(scorer.score([trace()])[0])[:2]) / 2
    return scorer


def green_share(colour):
    red, green, _ = map(int, re.findall(r"\d+", colour)[:3])
    return green / (red + green)


def test_pasted_steps_are_shown_with_their_scores_in_colour(browser, scorer):
    with running(scorer) as client:
        browser.post("/url", url=f"http://127.0.0.1:{client.port}/")
        browser.type("schema", SCHEMA)
        browser.type("question", QUESTION)
        browser.type("steps", "\n\n".join(STEPS))
        browser.press()
        shown, expected = browser.steps(), scorer.score([trace()])[0]
        assert [text for text, *_ in shown] == STEPS
        assert [score for _, score, *_ in shown] == [f"{score:.3f}" for score in expected]
        by_score = sorted(range(3), key=lambda i: expected[i])
        assert sorted(range(3), key=lambda i: green_share(shown[i][2])) == by_score  # redder is worse
        first = next(i for i, score in enumerate(expected) if score < scorer.model.config.threshold)
        assert [name for *_, name in shown] == ["first" if i == first else "" for i in range(3)]
        assert f"First error: step {first + 1}" in browser.message()
        browser.type("steps", "SELECT name, COUNT(*) FROM singer WHERE age > 20 GROUP BY name")
        browser.press()
        assert len(browser.steps()) > 1  # taken apart
        assert [
            entry for entry in browser.post("/se/log", type="browser") if entry["level"] == "SEVERE"
        ] == []


def test_hostile_text_is_text(browser, scorer):
    evil = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"
    with running(scorer) as client:
        browser.post("/url", url=f"http://127.0.0.1:{client.port}/")
        browser.type("question", evil)
        browser.type("steps", evil)
        browser.press()
        assert browser.steps()[0][0] == evil
        assert browser.do("return document.title") == "prm serve"


def test_the_page_asks_for_the_key(browser, scorer):
    with running(scorer, api_key="s3cret") as client:
        browser.post("/url", url=f"http://127.0.0.1:{client.port}/")
        browser.type("question", QUESTION)
        browser.type("steps", STEPS[0])
        browser.press()
        assert "API key is missing or wrong" in browser.message()
        browser.type("key", "s3cret")
        browser.press()
        assert len(browser.steps()) == 1
