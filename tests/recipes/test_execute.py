"""A Run becomes a folder, survives being killed, and refuses another Run's folder."""

from __future__ import annotations

import importlib.util
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.data.augment import CropFlip
from robustscape.data.digits import Digits
from robustscape.data.memory import hold
from robustscape.models.preact_resnet import PreActResNet
from robustscape.objectives.at import AT
from robustscape.recipes.digits import digits_at, digits_at_awp
from robustscape.recipes.execute import train
from robustscape.results import read_json, write_json
from robustscape.runtime import Runtime
from robustscape.training.loop import Epoch, Step
from robustscape.types import BadInput

spec = importlib.util.spec_from_file_location("small_runs", Path(__file__).with_name("small_runs.py"))
small_runs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small_runs)
killable, small, weights = small_runs.killable, small_runs.small, small_runs.weights

KEPT = ("epoch-0000", "epoch-0001", "epoch-0002")


def test_end_to_end_what_a_run_leaves(tmp_path):
    run = small(digits_at(), keep_every=1, best_on_test=True)
    events = list(train(run, tmp_path / "run", name="digits_at"))
    assert sum(isinstance(event, Epoch) for event in events) == 2
    names = set(weights(tmp_path / "run"))
    assert names == {f"{n}.safetensors" for n in ("last", "best", "best_on_test", *KEPT, "resume")}
    document = read_json(tmp_path / "run" / "run.json")
    assert document["name"] == "digits_at" and document["image"] == [1, 8, 8] and len(document["classes"]) == 10
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 2
    with safetensors.safe_open(tmp_path / "run" / "checkpoints" / "best_on_test.safetensors", "pt") as file:
        assert "selected" in file.metadata()["robustscape"]


def test_end_to_end_a_finished_run_is_not_trained_again(tmp_path):
    run = small(digits_at())
    list(train(run, tmp_path, name="digits_at"))
    before = weights(tmp_path)
    assert list(train(run, tmp_path, name="digits_at")) == []
    assert weights(tmp_path) == before


def test_contract_a_folder_of_another_run_is_refused(tmp_path):
    run = small(digits_at())
    list(train(run, tmp_path, name="digits_at"))
    other = replace(run, seed=1)
    with pytest.raises(BadInput, match="seed 0 there, 1 here"):
        list(train(other, tmp_path, name="digits_at"))


def test_contract_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BadInput, match="holds no run"):
        list(train(small(digits_at()), tmp_path, name="digits_at"))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("content", ['{"a": 1}', "[]"])
def test_contract_a_foreign_run_json_is_refused(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(BadInput, match=r"not the run\.json of robustscape"):
        list(train(small(digits_at()), tmp_path, name="digits_at"))


def test_contract_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(BadInput, match="is a file"):
        list(train(small(digits_at()), tmp_path / "run", name="digits_at"))


def test_end_to_end_what_a_kill_while_writing_leaves_is_cleared_away(tmp_path):
    run = small(digits_at())
    for leftover in (".run.json.77.tmp", "checkpoints/.last.safetensors.77.tmp"):  # of a first and of a second call
        path = tmp_path / leftover
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
        next(train(run, tmp_path, name="digits_at"))
        assert (tmp_path / "run.json").exists() and not path.exists()


def test_contract_another_machine_or_version_goes_on_with_a_warning(tmp_path):
    run = small(digits_at())
    next(train(run, tmp_path, name="digits_at"))
    next(train(run, tmp_path, name="digits_at"))  # the same one without: a warning is an error in these tests
    for what, value in (("device", "an abacus"), ("versions", {"torch": "0.1"})):
        document = read_json(tmp_path / "run.json")
        kept, document["provenance"][what] = document["provenance"][what], value
        write_json(tmp_path / "run.json", document)
        with pytest.warns(UserWarning, match=f"begun with {what}"):
            next(train(run, tmp_path, name="digits_at"))
        document["provenance"][what] = kept
        write_json(tmp_path / "run.json", document)


def test_contract_what_was_decided_is_written_and_obeyed_on_resume(tmp_path):
    run = small(digits_at())
    next(train(run, tmp_path, name="digits_at"))
    document = read_json(tmp_path / "run.json")
    decided = document["decided"]
    assert decided["compile"] == "no" and decided["threads"] == torch.get_num_threads() and decided["reason"]
    document["decided"]["threads"] += 1
    write_json(tmp_path / "run.json", document)
    events = train(run, tmp_path, name="digits_at")
    seen, wanted = [], torch.get_num_threads() + 1
    original = torch.set_num_threads
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "set_num_threads", lambda n: (seen.append(n), original(n)))
        next(events)
    assert wanted in seen


_KILLED = """
import os, signal, sys
from pathlib import Path
from tests_run import make
from robustscape.recipes.execute import train
from robustscape.training.loop import Step
at, out = int(sys.argv[1]), Path(sys.argv[2])
for number, event in enumerate(train(make(), out, name="digits_at_awp")):
    if number == at:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_end_to_end_killed_again_and_again_it_ends_with_the_same_bits(tmp_path):
    run = killable(tmp_path, _KILLED)
    assert run(10**9, tmp_path / "whole") == 0
    for at in (0, 5, 18, 3, 2):  # counted from where the run before was killed
        assert run(at, tmp_path / "killed") == -signal.SIGKILL
    assert run(10**9, tmp_path / "killed") == 0
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    for name in ("last.safetensors", "best.safetensors"):
        assert killed[name] == whole[name]


def test_end_to_end_awp_changes_the_weights_and_reports_steps(tmp_path):
    attack = PGD(threat=ThreatModel(eps=0.2), steps=2)
    runs = {name: small(make()) for name, make in (("at", digits_at), ("awp", digits_at_awp))}
    ends = {}
    for name, run in runs.items():
        run = replace(run, objective=AT(attack=attack))
        events = list(train(run, tmp_path / name, name=name))
        assert [event.done for event in events if isinstance(event, Step)] == list(range(1, events[-2].total + 1))
        ends[name] = weights(tmp_path / name)["last.safetensors"]
    assert ends["at"] != ends["awp"]


def test_contract_results_of_a_replaced_checkpoint_are_removed(tmp_path):
    run = small(digits_at())
    results = tmp_path / "results"
    for event in train(run, tmp_path, name="digits_at"):
        if isinstance(event, Epoch) and event.log.epoch == 1:
            results.mkdir()
            for name in ("flatness-last.json", "evaluation-last-test.json", "flatness-epoch-0001.json"):
                (results / name).write_text("{}")
    assert [path.name for path in results.iterdir()] == ["flatness-epoch-0001.json"]


def test_contract_what_cannot_be_trained_leaves_nothing(tmp_path):
    run = replace(small(digits_at()), augment=CropFlip(pad=20, mode="reflect"))
    with pytest.raises(BadInput):
        list(train(run, tmp_path / "run", name="digits_at"))
    assert not (tmp_path / "run").exists()


def test_contract_an_epoch_that_would_end_in_an_error_is_refused_and_leaves_nothing(tmp_path):
    run = small(digits_at())
    size = len(run.data.load(seed=run.seed).train) - 1  # one image is left, of one pixel before the last normalisation
    run = replace(run, model=PreActResNet(width=1), training=replace(run.training, batch_size=size))
    with pytest.raises(BadInput, match="last batch has 1 image"):
        list(train(run, tmp_path / "run", name="digits_at"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_contract_the_caller_keeps_its_threads(tmp_path):
    before = torch.get_num_threads()
    run = replace(small(digits_at()), runtime=Runtime(threads=before + 1))
    seen = {torch.get_num_threads() for _ in train(run, tmp_path, name="digits_at")}
    assert seen == {before}


def test_end_to_end_a_tracking_set_is_logged_beside_the_others(tmp_path):
    run = replace(small(digits_at(), track_test=False), tracking=Digits(test=40))
    run = replace(run, training=replace(run.training, epochs=1))
    (log,) = [event.log for event in train(run, tmp_path / "run", name="r") if isinstance(event, Epoch)]
    assert {name: of.n for name, of in log.tracked.items()}.keys() == {"train", "validation", "tracking"}
    assert log.tracked["tracking"].n == 40
    images = hold((torch.rand(20, 1, 9, 9), torch.arange(20) % 10), (torch.rand(20, 1, 9, 9), torch.arange(20) % 10))
    with pytest.raises(BadInput, match="has images"):
        next(train(replace(run, tracking=images), tmp_path / "other", name="r"))
    assert not (tmp_path / "other").exists()
