"""Models judged on the same images are compared in the terminal, after the table."""

import csv
import io

from robustscape.cli import main

CODE = """
import torch


def _net(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))


def first():
    return _net(0)


def second():
    return _net(1)
"""
QUICK = ["--data", "digits", "--eps", "0.1", "--n", "40", "--steps", "1", "--restarts", "1", "--loss-restarts", "0"]
QUICK += ["--splits", "test", "--images", "0"]


def test_end_to_end_evaluate_and_report_compare_models_image_by_image(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pair_of_nets.py").write_text(CODE)
    names = ["pair_of_nets:first", "pair_of_nets:second"]
    assert main(["evaluate", *names, *QUICK]) == 0
    table, _, compared = capsys.readouterr().out.partition("Image by image")
    assert all(name in table for name in names)
    pair = next(line for line in compared.splitlines() if " against " in line)
    assert all(name in pair for name in names) and " test " in pair
    assert "McNemar's p" in compared

    assert main(["evaluate", *names, *QUICK, "--csv"]) == 0
    assert [row[0] for row in csv.reader(io.StringIO(capsys.readouterr().out))] == ["Model", *names]
    assert main(["evaluate", names[0], *QUICK]) == 0
    assert "Image by image" not in capsys.readouterr().out

    folders = ["runs/pair_of_nets-first", "runs/pair_of_nets-second"]
    assert main(["report", *folders, "--out", "page.html"]) == 0
    assert "against pair_of_nets-" in capsys.readouterr().out.partition("Image by image")[2]
    assert main(["report", folders[0], "--out", "page.html"]) == 0
    assert "Image by image" not in capsys.readouterr().out
