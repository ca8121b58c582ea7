"""Evaluations and measurements that several processes share, as a user starts them."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from robustscape.cli import evaluate, main
from robustscape.cli.sources import Look, ranked
from robustscape.config import from_plain, to_plain
from robustscape.evaluation.subject import subject
from robustscape.results import load, provenance
from robustscape.runtime import TRUTH, Runtime
from robustscape.runtime.deciding import Decision
from robustscape.types import BadInput

TINY = ["--training.epochs", "1", "--training.track", "0", "--model.width", "2", "--objective.attack.steps", "1"]
QUICK = ["--n", "23", "--steps", "3", "--loss-steps", "2", "--batch-size", "4", "--checkpoint", "last", "--images", "2"]
SLICES = ["slices", "--n", "9", "--slices.directions", "1", "--slices.positions", "5", "--slices.attack.steps", "1"]
TWO = ["--devices", "2"]
TRIED = Decision(precision="float32", compile="no", threads=2, processes=2, milliseconds={}, reason="a trial")
NET = """
import os
import torch


def net():
    torch.manual_seed(int(os.environ.get("LOCAL_RANK", 0)))
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny run, with what one process finds out about it."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", "digits_at", *TINY, "--out", str(folder)]) == 0
    assert main(["evaluate", str(folder), *QUICK]) == 0
    assert main(["measure", str(folder), *SLICES, "--processes", "1"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    """Ranks are one-thread processes."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def torchrun(*words):
    """Run a command under torchrun on two ranks; return what it printed. Without `--` it takes --n for its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [*command, "-m", "--", "robustscape", *words], capture_output=True, text=True, check=False, timeout=900
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def same(folder, other):
    """Compare the evaluations of two folders: flags exactly, values to rounding."""
    for split in ("test", "train"):
        mine, theirs = (load(path / "results" / f"evaluation-last-{split}.json") for path in (folder, other))
        assert mine.fooled.tolist() == theirs.fooled.tolist() and mine.index.tolist() == theirs.index.tolist()
        assert mine.clean_error == theirs.clean_error and mine.robust_error == theirs.robust_error
        assert theirs.losses == pytest.approx(mine.losses, rel=1e-5)
        assert (mine.provenance.ranks, theirs.provenance.ranks) == (1, 2)
        assert mine.provenance.settings == theirs.provenance.settings
    pictures = [load(path / "results" / "images-last.json") for path in (folder, other)]
    assert pictures[0].x_adv == pytest.approx(pictures[1].x_adv, abs=1e-6)


def lines(text):
    return [line for line in text.splitlines() if line.strip()]


# -- what is refused before anything is started --------------------------------------------------------


@pytest.mark.parametrize("verb", [["evaluate"], ["measure", "slices"]])
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([*TWO, "--processes", "2"], "processes is 2, but 2 devices share the work already"),
        (["--processes", "-1"], "processes must be at least 0"),
        (["--devices", "0"], "devices must be at least 1"),
        ([*TWO, "--device", "cpu:0"], "devices is 2, and device 'cpu:0' is one"),
    ],
)
def test_contract_what_cannot_be_shared_is_refused_in_one_sentence(verb, words, sentence, capsys):
    assert main([*verb, "robustscape.models.linear:Linear", "--data", "digits", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and sentence in err


def test_contract_there_are_as_many_ranks_as_torchrun_started(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert ranked(Look(runtime=Runtime()), 0).runtime.devices == 4
    with pytest.raises(BadInput, match="4 devices share the work"):
        ranked(Look(runtime=Runtime()), 2)


@pytest.mark.parametrize(
    ("n", "processes", "wanted"),
    [(1000, 1, 1), (1000, 2, 2), (1000, 4, 4), (1000, 8, 1), (750, 2, 1), (9500, 8, 8), (8500, 8, 1)],
)
def test_closed_form_processes_are_started_where_their_batches_come_out_even(n, processes, wanted):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1, 2))
    looked_at = subject(model, torch.zeros(n, 1, 1, 1), torch.zeros(n, dtype=torch.int64), runtime=TRUTH, batch=250)
    assert evaluate._worth_starting(replace(TRIED, processes=processes), looked_at) == wanted
    assert evaluate._worth_starting(None, looked_at) == 1


def test_contract_a_result_from_before_there_were_ranks_was_made_by_one():
    made = provenance(
        seconds=0.0, device=torch.device("cpu"), precision="float32", seed=0, model="", data="", settings=None
    )
    plain = to_plain(made)
    assert plain.pop("ranks") == 1
    assert from_plain(plain) == made


# -- what several find is what one finds ---------------------------------------------------------------


@pytest.mark.slow
def test_reference_two_devices_evaluate_as_one_process_does(trained, tmp_path, capfd):
    assert main(["evaluate", str(trained), *QUICK, *TWO, "--out", str(tmp_path), "--csv"]) == 0
    out, err = capfd.readouterr()
    assert len(lines(out)) == 3 and len(lines(err)) == 3  # the table once; two evaluations and images written
    same(trained, tmp_path)


@pytest.mark.slow
def test_reference_under_torchrun_evaluations_are_those_of_one_process(trained, tmp_path):
    assert len(lines(torchrun("evaluate", str(trained), *QUICK, "--out", str(tmp_path), "--csv"))) == 3
    same(trained, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["devices", "torchrun"])
def test_reference_two_ranks_measure_as_one_process_does(trained, tmp_path, capfd, how):
    words = ["measure", str(trained), *SLICES, "--out", str(tmp_path)]
    if how == "torchrun":
        out = torchrun(*words)
    else:
        assert main([*words, *TWO]) == 0
        out = capfd.readouterr().out
    assert len(lines(out)) == 1 and [path.name for path in (tmp_path / "results").iterdir()] == ["slices-last.json"]
    alone, shared = (load(path / "results" / "slices-last.json") for path in (trained, tmp_path))
    assert shared.robust_loss == pytest.approx(alone.robust_loss, rel=1e-5)
    assert shared.robust_error.tolist() == alone.robust_error.tolist()
    assert (alone.provenance.ranks, shared.provenance.ranks) == (1, 2)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--processes", "2"], "processes is 2, but a cluster shares the points"),
        (TWO, "2 devices share the points already"),
    ],
)
def test_contract_points_on_a_cluster_are_not_shared_again(words, sentence, capsys):
    words = ["measure", "slices", "robustscape.models.linear:Linear", "--data", "digits", "--cluster", "local", *words]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and sentence in err


@pytest.mark.slow
def test_reference_a_cluster_measures_as_one_process_does(trained, tmp_path, capfd, cluster):
    assert main(["measure", str(trained), *SLICES, "--out", str(tmp_path), "--cluster", "local"]) == 0
    assert len(lines(capfd.readouterr().out)) == 1
    alone, shared = (load(path / "results" / "slices-last.json") for path in (trained, tmp_path))
    assert shared.robust_loss == pytest.approx(alone.robust_loss, rel=1e-5)
    assert shared.robust_error.tolist() == alone.robust_error.tolist()
    assert shared.provenance.threads == 1


@pytest.mark.slow
def test_reference_processes_share_one_model_even_where_each_would_draw_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "drawn.py").write_text(NET)
    words = ["evaluate", "drawn:net", "--data", "digits", *QUICK, "--eps", "0.1"]
    assert main([*words, "--out", "alone", "--processes", "1"]) == 0
    assert main([*words, "--out", "shared", "--processes", "2"]) == 0
    same(tmp_path / "alone", tmp_path / "shared")
    assert load(tmp_path / "shared" / "results" / "evaluation-last-test.json").provenance.threads == 1


@pytest.mark.slow
def test_end_to_end_processes_are_started_where_a_trial_shows_them_to_be_faster(trained, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(evaluate, "fastest", lambda subject, *_: (replace(subject), TRIED))
    assert main(["evaluate", str(trained), *QUICK, "--out", str(tmp_path), "--csv"]) == 0
    out, err = capfd.readouterr()
    assert len(lines(out)) == 3 and len(lines(err)) == 3
    same(trained, tmp_path)


@pytest.mark.slow
def test_contract_what_a_rank_refuses_is_one_sentence(trained, tmp_path, capfd):
    assert main(["evaluate", str(trained), *TWO, "--mean", "0.5", "--out", str(tmp_path)]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("robustscape: ") and "std" in err
    assert list(tmp_path.iterdir()) == []
