"""`robustscape study` as a user meets it."""

import csv

from robustscape.cli import main
from robustscape.report.study import StudyResult
from robustscape.results import load

SHORT = ["--scale", "small", "--train-steps", "2", "--test-steps", "2", "--training.epochs", "1", "--processes", "1"]


def test_end_to_end_a_table_is_shown_and_written_and_nothing_is_done_again(capsys, tmp_path):
    words = ["study", "yamada", *SHORT, "--only", "table1", "--out", str(tmp_path)]
    assert main(words) == 0
    first = capsys.readouterr()
    assert "Yamada et al. 2021, Table 1" in first.out
    assert str(tmp_path) in first.err
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"table1.json", "table1.csv", "table1.md", "cells"}
    result = load(tmp_path / "table1.json")
    assert isinstance(result, StudyResult)
    rows = list(csv.reader((tmp_path / "table1.csv").read_text().splitlines()))
    assert [row[0] for row in rows] == ["ε", "0", "0.2", "0.4", "0.6", "0.8", "1"]
    assert [row[rows[0].index("Test, paper, %")] for row in rows[1:3]] == ["99.95", "99.95"]
    assert result.shown.notes[0] in (tmp_path / "table1.md").read_text()
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert len(cells) == 6
    assert main(words) == 0
    assert capsys.readouterr().out == first.out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()} == cells


def test_end_to_end_without_a_name_the_studies_and_their_parts_are_listed(capsys):
    assert main(["study"]) == 0
    text = capsys.readouterr().out
    assert "yamada" in text
    assert "table1, table2, table3, table4" in text


def test_end_to_end_what_does_not_exist_is_named_with_the_nearest(capsys):
    for words, sentence in (
        (["yamda"], "there is no study 'yamda' (did you mean yamada?); there are: yamada"),
        (["--scale", "small"], "study needs one name first: robustscape study NAME; there are: yamada"),
        (["yamada", "--only", "tabel1"], "yamada has no 'tabel1' (did you mean table1?); there are: table1"),
        (["yamada", "--processes", "-1"], "processes must be at least 0, not -1"),
    ):
        assert main(["study", *words]) == 2
        assert sentence in capsys.readouterr().err
