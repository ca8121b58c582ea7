"""The example that evaluates someone else's model, as a user runs it."""

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def as_a_script(monkeypatch):
    """The folder of the examples is where Python looks first, and what was imported from it is forgotten."""
    monkeypatch.syspath_prepend(EXAMPLES)
    yield
    sys.modules.pop("own_model", None)


@pytest.mark.slow
def test_end_to_end_someone_elses_model_is_judged(as_a_script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["evaluate_someone_elses_model.py"])
    runpy.run_path(str(EXAMPLES / "evaluate_someone_elses_model.py"), run_name="__main__")
    out = capsys.readouterr().out
    clean = re.search(r"misclassified without attack: (\d+)%", out)
    robust = re.search(r"robust error (\d+)%, 95 % interval (\d+)% to (\d+)%, of 100", out)
    assert clean and robust, out
    error, low, high = map(int, robust.groups())
    assert int(clean[1]) < 10 < 25 < low < error < high  # it learnt, and not robustly
    flips = [int(number) for number in re.findall(r"fooled (\d+) that nothing before had", out)]
    assert len(flips) == 6 and int(clean[1]) + sum(flips) == error  # of 100 images: every one is accounted for
    assert "vanishing gradients: the loss has no gradient at 0 of 100" in out and "\n! " not in out
    assert list(tmp_path.iterdir()) == []


def test_contract_what_it_shows_takes_ten_lines():
    source = (EXAMPLES / "evaluate_someone_elses_model.py").read_text()
    body = source.split("def judged", 1)[1].split("\n\n\n", 1)[0].splitlines()[2:]
    assert len(body) <= 10 and body[0].strip().startswith("model = load(")
