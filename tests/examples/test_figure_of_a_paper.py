"""The example that draws a paper's figure for a network of one's own, as a user runs it."""

import re
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "figure_of_a_paper.py"


@pytest.mark.slow
def test_end_to_end_robust_overfitting_loses_flatness(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["figure_of_a_paper.py"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    out = capsys.readouterr().out
    number = r"(\d+\.\d+)"
    lines = re.findall(rf"epoch +(\d+): robust loss {number}, in training {number}; flatness {number}", out)
    assert [int(line[0]) for line in lines] == list(range(4, 41, 4))
    loss, fitted, rise = ([float(line[k]) for line in lines] for k in (1, 2, 3))
    best = loss.index(min(loss))
    assert 0 < best < len(loss) - 1 and loss[-1] > 1.1 * loss[best] and rise[-1] > 1.2 * rise[best]
    assert fitted[-1] < 0.5 * fitted[best]  # what it goes on doing is fitting
    assert rise[0] == min(rise) and loss[0] == max(loss)  # a network that has learnt nothing yet is the flattest
    with Image.open(tmp_path / "figure_of_a_paper.png") as picture:
        assert picture.format == "PNG" and len(picture.getcolors(1 << 20)) > 50  # points in the colours of epochs


def test_contract_it_is_cells_that_run_in_their_order():
    source = EXAMPLE.read_text()
    cells = source.split("# %%")[1:]
    assert source.startswith("# %%") and len(cells) >= 8
    for count in range(len(cells)):  # each cell ends where a statement does
        compile("# %%" + "# %%".join(cells[: count + 1]), "cells", "exec")
    assert "__main__" not in source and "def main" not in source
