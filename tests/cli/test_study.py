"""`robustscape study` as a user meets it."""

import csv

import pytest

from robustscape.cli import main
from robustscape.report.study import StudyResult
from robustscape.results import load
from robustscape.studies.yamada import Yamada

SHORT = ["--scale", "small", "--train-steps", "2", "--test-steps", "2", "--training.epochs", "1", "--processes", "1"]


def test_end_to_end_a_table_is_shown_and_written_and_nothing_is_done_again(capsys, tmp_path):
    words = ["study", "yamada", *SHORT, "--only", "table2", "--out", str(tmp_path)]
    assert main(words) == 0
    first = capsys.readouterr()
    assert "Yamada et al. 2021, Table 2" in first.out
    assert str(tmp_path) in first.err
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"table2.json", "table2.csv", "table2.md", "cells"}
    result = load(tmp_path / "table2.json")
    assert isinstance(result, StudyResult)
    rows = list(csv.reader((tmp_path / "table2.csv").read_text().splitlines()))
    assert [row[0] for row in rows] == ["ε", "0", "0.2", "0.4", "0.6", "0.8", "1"]
    assert [row[rows[0].index("Test, paper, %")] for row in rows[1:3]] == ["99.95", "99.95"]
    assert result.shown.notes[0] in (tmp_path / "table2.md").read_text()
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert len(cells) == 6 + 6 + 1  # networks, their optima, and the margin that these need
    assert main(words) == 0
    assert capsys.readouterr().out == first.out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()} == cells


@pytest.mark.slow
def test_end_to_end_a_part_with_panels_is_drawn_too_and_studies_are_reported(capsys, tmp_path, fake, monkeypatch):
    shown = fake.part("table1", 0, drawn=True).shown
    monkeypatch.setattr(Yamada, "show", lambda study, part, values: shown)
    words = ["study", "yamada", *SHORT, "--only", "table2", "table1", "--out", str(tmp_path)]
    assert main(words) == 0
    assert {f"table2.{ending}" for ending in ("json", "csv", "md", "pdf", "png")} < {p.name for p in tmp_path.iterdir()}
    assert "![PGD; L2 <b>](table2.png)" in (tmp_path / "table2.md").read_text()
    assert [load(tmp_path / f"table{k}.json").place for k in (1, 2)] == [
        Yamada().parts().index(f"table{k}") for k in (1, 2)
    ]
    capsys.readouterr()
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "report.html")]) == 0
    assert f"yamada (small), table2: {shown.title}\n" in capsys.readouterr().out
    assert main(["figure", str(tmp_path), "--form", "svg"]) == 0
    assert str(tmp_path / "table1.svg") in capsys.readouterr().out


def test_end_to_end_without_a_name_the_studies_and_their_parts_are_listed(capsys):
    assert main(["study"]) == 0
    text = capsys.readouterr().out
    assert "yamada" in text
    assert "table1, table2, table3, table4" in text


def test_end_to_end_what_does_not_exist_is_named_with_the_nearest(capsys):
    for words, sentence in (
        (["yamda"], "there is no study 'yamda' (did you mean yamada?); there are: "),
        (["--scale", "small"], "study needs one name first: robustscape study NAME; there are: "),
        (["yamada", "--only", "tabel1"], "yamada has no 'tabel1' (did you mean table1?); there are: "),
        (["yamada", "--processes", "-1"], "processes must be at least 0, not -1"),
    ):
        assert main(["study", *words]) == 2
        assert sentence in capsys.readouterr().err
