"""The journal of a long run: whatever is cut off or spoilt, what was finished and is whole is there again."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from prm.errors import InputError
from prm.jobs.journal import Journal

ENV = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
RUN = {"seed": 0, "versions": {"prm": "0"}}
KEYS = ("0", "2", "1", "k3")
RESULTS = {key: {"lines": ['{"a": "ä\n"}', "\u2028"] * k, "none": None} for k, key in enumerate(KEYS)}


def contents(journal):
    return {key: journal[key] for key in KEYS if key in journal}


@pytest.fixture
def path(tmp_path):
    """The path of a journal that holds `RESULTS`."""
    path = tmp_path / "j"
    with Journal(path, "build", RUN) as made:
        for key, result in RESULTS.items():
            made.add(key, result)
    return path


def test_results_come_back(path):
    with Journal(path, "build", RUN) as again:
        assert len(again) == 4 and "2" in again and "4" not in again
        assert contents(again) == RESULTS
        again.remove()
    assert not path.exists()


def test_whatever_is_cut_off_the_rest_is_there(path):
    """For every byte at which a write can stop, also within a character."""
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with Journal(path, "build", RUN) as again:
            left = max(sum(end <= cut for end in ends) - 1, 0)
            assert contents(again) == {key: RESULTS[key] for key in KEYS[:left]}
            for key in KEYS[left:]:
                again.add(key, RESULTS[key])
        assert path.read_bytes() == whole


def test_a_spoilt_line_is_never_taken_for_a_result_and_costs_no_other(path):
    """A flipped bit loses its own line, and the next one where the end between them is lost."""
    whole = bytearray(path.read_bytes())
    rng = random.Random(0)
    header = whole.index(b"\n") + 1
    for at in rng.sample(range(header, len(whole)), 60):
        spoilt = whole.copy()
        spoilt[at] ^= 1 << rng.randrange(8)
        path.write_bytes(spoilt)
        with Journal(path, "build", RUN) as again:
            assert 4 - (1 + (whole[at] == 10)) <= len(again) < 4
            assert contents(again).items() <= RESULTS.items()
            for key in RESULTS.keys() - contents(again):
                again.add(key, RESULTS[key])
        with Journal(path, "build", RUN) as mended:
            assert contents(mended) == RESULTS


def test_zeros_that_a_power_cut_leaves_are_cut_off(path):
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(5000))
    with Journal(path, "build", RUN) as again:
        assert len(again) == 4
    assert path.read_bytes() == whole
    path.write_bytes(whole[:20] + bytes(5000))  # within the first line
    with Journal(path, "build", RUN) as again:
        assert len(again) == 0


@pytest.mark.parametrize(
    "text", ["my diary\n", "my diary", '{"question": 1}\n', "\n", "00000000 build {}\n", " build {}\n"]
)
def test_another_file_by_that_name_is_left_alone(tmp_path, text):
    path = tmp_path / "whole.jsonl.journal"
    path.write_text(text)
    with pytest.raises(InputError, match=r"journal: is no journal of prm build; remove it, or give another"):
        Journal(path, "build", RUN)
    assert path.read_text() == text


def test_journals_of_other_verbs_are_left_alone(path):
    """The answers that `prm rollout` paid for are not for `prm build` to throw away."""
    whole = path.read_bytes()
    with pytest.raises(InputError, match=r"is no journal of prm label"):
        Journal(path, "label", RUN)
    assert path.read_bytes() == whole


def test_other_settings_begin_afresh_and_say_what_differs(path, capsys):
    with Journal(path, "build", {"seed": 1, "versions": {"prm": "0"}, "row_limit": 3}) as other:
        assert len(other) == 0
        other.add("0", {})
    assert capsys.readouterr().err == (
        f"prm: {path} is of an unfinished prm build with other settings (row limit, seed): starting afresh\n"
    )
    with Journal(path, "build", RUN) as back:
        assert len(back) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "a", "temperature": 0.5}, r"was begun with temperature 1\.0, not 0\.5; take the old"),
        ({"policy": "a"}, r"was begun with temperature 1\.0, not None"),
        (
            {"policy": "a", "temperature": 1.0, "variants": ["x"]},
            r"was begun with variants None, not \['x'\]",
        ),
    ],
)
def test_what_was_paid_for_is_refused_to_other_settings(tmp_path, settings, message):
    path = tmp_path / "j"
    with Journal(path, "judge", {"policy": "a", "temperature": 1.0}, paid=True) as journal:
        journal.add("k", "dear")
    with pytest.raises(InputError, match=message):
        Journal(path, "judge", settings, paid=True)
    with Journal(path, "judge", {"temperature": 1.0, "policy": "a"}, paid=True) as again:
        assert again["k"] == "dear"


def test_two_programs_cannot_write_the_same(path):
    with Journal(path, "build", RUN) as one:
        code = f"from prm.jobs.journal import Journal; Journal({str(path)!r}, 'build', {RUN!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENV)
        assert "another command writes this output right now; wait for it, or give" in done.stderr
        assert len(one) == 4
    assert path.exists()


def test_a_journal_without_results_leaves_nothing(tmp_path):
    with Journal(tmp_path / "deep" / "j", "build", RUN):
        assert (tmp_path / "deep" / "j").exists()
    assert list((tmp_path / "deep").iterdir()) == []
    with pytest.raises(InputError, match="cannot be written"):
        Journal(Path("/dev/null/j"), "build", RUN)


def test_half_characters_of_models_are_kept(tmp_path):
    with Journal(tmp_path / "j", "judge", RUN) as made:
        made.add("k", {"text": "a\ud800b"})
    with Journal(tmp_path / "j", "judge", RUN) as again:
        assert again["k"] == {"text": "a\ud800b"}


def test_a_full_disk_says_so_and_loses_nothing_before(path):
    code = (
        "import sys\nfrom prm.jobs.journal import Journal\n"
        f"journal = Journal({str(path)!r}, 'build', {RUN!r})\n"
        "try:\n    journal.add('big', 'x' * 9000)\nexcept ValueError as error:\n    sys.exit(str(error))"
    )
    limit = (path.stat().st_size + 100, resource.RLIM_INFINITY)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=ENV,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )  # fmt: skip
    assert f"{path}: cannot be written (File too large); make room and run the same command" in done.stderr
    with Journal(path, "build", RUN) as again:
        assert contents(again) == RESULTS and len(again) == 4
