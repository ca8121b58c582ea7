"""The example of a network of one's own, as a user runs it."""

import json
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
def test_end_to_end_a_network_of_ones_own_goes_the_whole_way(as_a_script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["own_model.py", "out"])
    runpy.run_path(str(EXAMPLES / "own_model.py"), run_name="__main__")
    out, err = capsys.readouterr()
    assert "chance" not in err
    assert out.count("\n$ robustscape ") == 3
    results = tmp_path / "out" / "net" / "results"
    found = json.loads((results / "evaluation-last-test.json").read_text())["result"]
    assert found["clean_error"]["value"] < 0.1 < found["robust_error"]["value"]  # it learnt, and not robustly
    assert found["provenance"]["model"] == "own_model:Net, net.pt"
    flat = json.loads((results / "flatness-last.json").read_text())["result"]
    assert flat["robust"]["value"] > flat["clean"]["value"] > 0
    assert "own_model:Net, net.pt" in (tmp_path / "out" / "report.html").read_text()
