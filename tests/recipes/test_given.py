"""Runs on unlabelled images, and runs that begin with weights trained before: the whole way, killed, and on ranks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.cli import main
from robustscape.config import to_plain
from robustscape.data.digits import Digits
from robustscape.data.unlabelled import Unlabelled, hidden_part
from robustscape.models.lenet import LeNet
from robustscape.objectives.rst import RST
from robustscape.recipes.digits import digits_at
from robustscape.recipes.execute import train, train_several
from robustscape.recipes.given import batches, loaded
from robustscape.recipes.run import Run
from robustscape.results import write_json
from robustscape.training.loop import Epoch, Step
from robustscape.training.schedules.rise import Rise
from robustscape.types import BadInput
from robustscape.weights.awp import AWP

TINY = ["--training.epochs", "1", "--training.track", "20", "--model.width", "2", "--objective.attack.steps", "1"]
HIDE = ["--unlabelled.hide", "0.8"]


def _file(folder: Path) -> str:
    """Write the hidden part of the digits, its labels moved on by one: what a bad network might say."""
    hidden = hidden_part(Digits().load(seed=0), 0.8, seed=0)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "pseudo.npz", x=hidden.x.numpy(), y=(hidden.y.numpy() + 1) % 10, classes=np.array(hidden.classes))
    return str(folder / "pseudo.npz")


def _run(folder: Path, **changes) -> Run:
    """RST with AWP, EMA and a cosine schedule of eps, in a batch size that does not divide the labelled images."""
    run = digits_at()
    training = replace(run.training, epochs=2, track=20, checkpoint_seconds=0.0, ema=0.9, eps=Rise())
    return replace(
        run,
        model=LeNet(width=2),
        objective=RST(attack=PGD(threat=ThreatModel(eps=0.1), steps=2)),
        unlabelled=Unlabelled(source=_file(folder), share=0.7, size=150, hide=0.8),
        weights=AWP(),
        training=training,
        **changes,
    )


def _last(folder: Path) -> bytes:
    return (folder / "checkpoints" / "last.safetensors").read_bytes()


def test_closed_form_what_a_run_is_given_is_hidden_and_mixed_as_it_says(tmp_path):
    run = _run(tmp_path)
    given = loaded(run)
    whole = Digits().load(seed=0)
    true = dict(zip(whole.train.index.tolist(), whole.train.y.tolist(), strict=True))
    hidden = hidden_part(whole, 0.8, seed=0)
    some = list(batches(run, given).epoch(0))
    assert [len(batch) for batch in some] == [64, 64, 22]
    for batch in some:
        assert int((~batch.labelled).sum()) == round(0.7 * len(batch))
        for number, label, known in zip(*(getattr(batch, n).tolist() for n in ("index", "y", "labelled")), strict=True):
            index = number if known else int(hidden.index[number - 2**32])
            assert label == (true[index] if known else (true[index] + 1) % 10)
            assert known != (index in hidden.index)


def test_end_to_end_labels_are_hidden_given_back_by_a_network_and_trained_on_by_one_command(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits_natural", *HIDE, *TINY[:6], "--out", "teacher"]) == 0
    assert json.loads(Path("teacher/run.json").read_text())["train_n"] == 243
    assert main(["label", "teacher", "--to", "pseudo.npz"]) == 0
    assert "970 images" in capsys.readouterr().out
    command = "train digits_at --objective rst --weights awp --training.ema 0.99 --training.eps rise"
    words = [*command.split(), *HIDE, "--unlabelled.source", "pseudo.npz", *TINY, "--out", "rst"]
    assert main(words) == 0
    (line,) = map(json.loads, Path("rst/log.jsonl").read_text().splitlines())
    assert {name.partition("_")[0] for name in line["loss"]} == {"labelled", "unlabelled", "total"}
    assert 0 < line["eps"] <= 0.1 and line["loss"]["total"] > 0
    document = json.loads(Path("rst/run.json").read_text())
    assert set(document["given"]) == {"unlabelled.source"} and document["run"]["unlabelled"]["hide"] == 0.8
    quick = ["--n", "20", "--steps", "1", "--restarts", "1", "--loss-restarts", "0", "--images", "0"]
    assert main(["evaluate", "rst", "--checkpoint", "last", "--splits", "train", *quick]) == 0
    result = json.loads(Path("rst/results/evaluation-last-train.json").read_text())["result"]
    assert "labelled part" in result["provenance"]["data"]


def test_end_to_end_a_stopped_run_on_unlabelled_images_goes_on_to_the_same_bits(tmp_path):
    run = _run(tmp_path)
    list(train(run, tmp_path / "whole", name="rst"))
    events = train(run, tmp_path / "stopped", name="rst")
    assert sum(isinstance(event, Step) for event in islice(events, 5)) == 4  # in the middle of the second epoch
    events.close()
    list(train(run, tmp_path / "stopped", name="rst"))
    assert _last(tmp_path / "stopped") == _last(tmp_path / "whole")


def test_contract_a_run_does_not_go_on_with_another_file(tmp_path):
    run = _run(tmp_path)
    next(train(run, tmp_path / "run", name="rst"))
    with np.load(tmp_path / "pseudo.npz") as stored:
        arrays = dict(stored)
    np.savez(tmp_path / "pseudo.npz", **{**arrays, "y": arrays["y"][::-1]})
    with pytest.raises(BadInput, match=r"--unlabelled\.source has changed since .* began"):
        next(train(run, tmp_path / "run", name="rst"))


def test_contract_rst_and_unlabelled_images_need_each_other(tmp_path, capsys):
    run = _run(tmp_path)
    for wrong, sentence in (
        (replace(run, unlabelled=Unlabelled(hide=0.8)), "RST needs unlabelled images .* or take --objective trades"),
        (replace(run, objective=digits_at().objective), "AT does not tell unlabelled .* did you mean --objective rst"),
        (replace(run, unlabelled=Unlabelled(source=str(tmp_path / "none.npz"))), "there is no file of pseudo-labelled"),
    ):
        for begin in (train, lambda run, out, name: train_several([(run, out)], name=name)):
            with pytest.raises(BadInput, match=sentence):
                next(begin(wrong, tmp_path / "run", name="rst"))
    assert [path.name for path in tmp_path.iterdir()] == ["pseudo.npz"]
    assert main(["train", "digits_at", "--objective", "rst", "--dry-run"]) == 2
    assert "RST needs unlabelled images" in capsys.readouterr().err


# -- weights trained before ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """A run on other splits of the digits."""
    folder = tmp_path_factory.mktemp("before") / "run"
    list(train(_plain(data=Digits(test=0.4)), folder, name="pre"))
    return folder


def _plain(**changes) -> Run:
    run = digits_at()
    attack = PGD(threat=ThreatModel(eps=0.1), steps=1)
    training = replace(run.training, epochs=1, batch_size=300, track=20, checkpoint_seconds=0.0, keep_every=1)
    objective = replace(run.objective, attack=attack)
    return replace(run, model=LeNet(width=2), objective=objective, training=training, **changes)


def _weights(folder: Path, name: str) -> dict[str, bytes]:
    found = load_file(folder / "checkpoints" / f"{name}.safetensors")
    return {key: value.numpy().tobytes() for key, value in found.items()}


def test_end_to_end_a_training_begins_with_the_weights_of_a_run_and_goes_on_to_the_same_bits(before, tmp_path):
    run = replace(_plain(start=str(before)), seed=5)
    with pytest.warns(UserWarning, match="begins with the weights of .*, and its head$"):
        events = list(train(run, tmp_path / "whole", name="fine"))
    assert _weights(tmp_path / "whole", "epoch-0000") == _weights(before, "last")
    assert isinstance(events[-1], Epoch) and 0 < events[-1].log.distance < 1
    with pytest.warns(UserWarning, match="begins with"):
        stopped = train(run, tmp_path / "stopped", name="fine")
        next(stopped)
        next(stopped)
    stopped.close()
    rest = list(train(run, tmp_path / "stopped", name="fine"))  # without a warning: what it began with is known
    assert isinstance(rest[-1], Epoch) and rest[-1].log.distance == events[-1].log.distance
    assert _last(tmp_path / "stopped") == _last(tmp_path / "whole")


@pytest.mark.filterwarnings("default")
def test_end_to_end_a_new_head_is_said_to_be_new(before, tmp_path, capsys):
    np.savez(
        tmp_path / "four.npz",
        x_train=np.arange(80 * 64, dtype=np.int64).reshape(80, 8, 8).astype(np.uint8),
        y_train=np.arange(80) % 4,
        x_test=np.arange(80 * 64, dtype=np.int64)[::-1].reshape(80, 8, 8).astype(np.uint8),
        y_test=np.arange(80) % 4,
    )
    words = ["--data", "npz", "--data.path", str(tmp_path / "four.npz"), "--from", str(before), "--training.keep-every"]
    assert main(["train", "digits_at", *words, "1", *TINY, "--out", str(tmp_path / "run")]) == 0
    assert "a new head: its own is for 10 other classes, here are 4" in capsys.readouterr().err
    begun, old = _weights(tmp_path / "run", "epoch-0000"), _weights(before, "last")
    assert {name for name in begun if begun[name] != old[name]} == {"fc2.weight", "fc2.bias"}


def test_contract_weights_of_another_network_are_refused_before_anything_is_computed(before, tmp_path, capsys):
    words = ["train", "digits_at", "--from", str(before), "--out", str(tmp_path / "run")]
    for more in ([], ["--dry-run"]):
        assert main([*words, *more]) == 2
        said = capsys.readouterr()
        assert "did you mean --model.width 2?" in said.err and "would train" not in said.out
    assert main([*words, "--model.width", "2", "--dry-run"]) == 0
    assert "would train" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_contract_a_dry_run_finds_the_file_of_unlabelled_images(tmp_path, capsys):
    words = ["train", "digits_at", "--objective", "rst", *HIDE, "--out", str(tmp_path / "run"), "--dry-run"]
    for name, sentence in (("none.npz", "there is no file of pseudo-labelled images"), ("", "is a folder, not a file")):
        assert main([*words, "--unlabelled.source", str(tmp_path / name)]) == 2
        said = capsys.readouterr()
        assert sentence in said.err and "would train" not in said.out
    assert main([*words, "--unlabelled.source", _file(tmp_path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["pseudo.npz"]


# -- killed, and on ranks ------------------------------------------------------------------------------

_KILLED = """
import os, signal, sys
from pathlib import Path
from robustscape.config import from_plain
from robustscape.recipes.execute import train
from robustscape.results import read_json
at, out = int(sys.argv[1]), Path(sys.argv[2])
for number, event in enumerate(train(from_plain(read_json(Path("run.json"))), out, name="rst")):
    if number == at:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def _command(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, check=False, capture_output=True, text=True
    )


@pytest.mark.slow
def test_end_to_end_killed_on_unlabelled_images_from_other_weights_it_ends_with_the_same_bits(before, tmp_path):
    write_json(tmp_path / "run.json", to_plain(_run(tmp_path, start=str(before))))
    (tmp_path / "killed.py").write_text(_KILLED)
    assert _command(["killed.py", "1000000", "whole"], tmp_path).returncode == 0
    assert _command(["killed.py", "4", "killed"], tmp_path).returncode == -signal.SIGKILL
    assert _command(["killed.py", "1000000", "killed"], tmp_path).returncode == 0
    assert _last(tmp_path / "killed") == _last(tmp_path / "whole")


@pytest.mark.slow
def test_reference_two_ranks_label_and_train_as_one_process_does(before, tmp_path):
    """One mean over the batch does not depend on how the ranks share it."""
    source = _file(tmp_path)
    tiny = [*TINY, "--training.batch-size", "300", "--training.optimizer", "sgd", "--objective", "rst"]
    tiny += ["--objective.mean", "all"]
    words = ["train", "digits_at", *tiny, *HIDE, "--unlabelled.source", source, "--from", str(before)]
    for name, devices in (("one", "1"), ("two", "2")):
        more = ["--precision", "float32", "--devices", devices]
        for command in (
            [*words, "--out", name, *more],
            ["label", str(before), "--to", f"{name}.npz", "--batch-size", "100", *more],
        ):
            done = _command(["-m", "robustscape", *command], tmp_path)
            assert done.returncode == 0, done.stderr
        assert done.stdout.count("wrote ") == 1
    one, two = (load_file(tmp_path / name / "checkpoints" / "last.safetensors") for name in ("one", "two"))
    assert {key for key in one if float((one[key] - two[key]).abs().max()) > 1e-5} == set()
    with np.load(tmp_path / "one.npz") as a, np.load(tmp_path / "two.npz") as b:
        assert np.array_equal(a["y"], b["y"]) and np.allclose(a["confidence"], b["confidence"], atol=1e-6)
        assert json.loads(str(b["provenance"]))["ranks"] == 2
