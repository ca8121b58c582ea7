"""A Run becomes a folder, survives being killed, and refuses another Run's folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
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
from robustscape.models.linear import Linear
from robustscape.models.preact_resnet import PreActResNet
from robustscape.objectives.at import AT
from robustscape.recipes import begun, execute
from robustscape.recipes.digits import digits_at, digits_at_awp
from robustscape.recipes.execute import train, train_several
from robustscape.recipes.run import Run
from robustscape.results import read_json, write_json
from robustscape.runtime import Runtime
from robustscape.runtime.deciding import Decision
from robustscape.training.loop import Epoch, Step
from robustscape.training.optimizers.adam import Adam
from robustscape.types import BadInput, Diverged

KEPT = ("epoch-0000", "epoch-0001", "epoch-0002")


def _small(run: Run, **changes) -> Run:
    attack = PGD(threat=ThreatModel(eps=0.2), steps=2)
    training = replace(run.training, epochs=2, track=50, track_attack=attack, **changes)
    return replace(run, objective=AT(attack=attack), training=training)


def _weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "checkpoints").glob("*.safetensors"))}


def test_end_to_end_what_a_run_leaves(tmp_path):
    run = _small(digits_at(), keep_every=1, best_on_test=True)
    events = list(train(run, tmp_path / "run", name="digits_at"))
    assert sum(isinstance(event, Epoch) for event in events) == 2
    names = set(_weights(tmp_path / "run"))
    assert names == {f"{n}.safetensors" for n in ("last", "best", "best_on_test", *KEPT, "resume")}
    document = read_json(tmp_path / "run" / "run.json")
    assert document["name"] == "digits_at" and document["image"] == [1, 8, 8] and len(document["classes"]) == 10
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 2
    with safetensors.safe_open(tmp_path / "run" / "checkpoints" / "best_on_test.safetensors", "pt") as file:
        assert "selected" in file.metadata()["robustscape"]


def test_end_to_end_a_finished_run_is_not_trained_again(tmp_path):
    run = _small(digits_at())
    list(train(run, tmp_path, name="digits_at"))
    before = _weights(tmp_path)
    assert list(train(run, tmp_path, name="digits_at")) == []
    assert _weights(tmp_path) == before


def test_contract_a_folder_of_another_run_is_refused(tmp_path):
    run = _small(digits_at())
    list(train(run, tmp_path, name="digits_at"))
    other = replace(run, seed=1)
    with pytest.raises(BadInput, match="seed 0 there, 1 here"):
        list(train(other, tmp_path, name="digits_at"))


def test_contract_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BadInput, match="holds no run"):
        list(train(_small(digits_at()), tmp_path, name="digits_at"))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("content", ['{"a": 1}', "[]"])
def test_contract_a_foreign_run_json_is_refused(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(BadInput, match=r"not the run\.json of robustscape"):
        list(train(_small(digits_at()), tmp_path, name="digits_at"))


def test_contract_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(BadInput, match="is a file"):
        list(train(_small(digits_at()), tmp_path / "run", name="digits_at"))


def test_end_to_end_what_a_kill_while_writing_leaves_is_cleared_away(tmp_path):
    run = _small(digits_at())
    for leftover in (".run.json.77.tmp", "checkpoints/.last.safetensors.77.tmp"):  # of a first and of a second call
        path = tmp_path / leftover
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
        next(train(run, tmp_path, name="digits_at"))
        assert (tmp_path / "run.json").exists() and not path.exists()


def test_contract_another_machine_or_version_goes_on_with_a_warning(tmp_path):
    run = _small(digits_at())
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
    run = _small(digits_at())
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

_MAKE = """
from dataclasses import replace
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.data.augment import CropFlip
from robustscape.models.linear import Linear
from robustscape.objectives.at import AT
from robustscape.recipes.digits import digits_at_awp
def make():
    run = digits_at_awp()
    attack = PGD(threat=ThreatModel(eps=0.2), steps=2)
    training = replace(run.training, epochs=2, track=50, track_attack=attack, checkpoint_seconds=0.0, ema=0.9)
    return replace(run, objective=AT(attack=attack), training=training)
"""


@pytest.mark.slow
def test_end_to_end_killed_again_and_again_it_ends_with_the_same_bits(tmp_path):
    (tmp_path / "tests_run.py").write_text(_MAKE)
    (tmp_path / "killed.py").write_text(_KILLED)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run(at: int, out: Path) -> int:
        command = [sys.executable, str(tmp_path / "killed.py"), str(at), str(out)]
        return subprocess.run(command, env=environment, check=False).returncode

    assert run(10**9, tmp_path / "whole") == 0
    for at in (0, 5, 18, 3, 2):  # counted from where the run before was killed
        assert run(at, tmp_path / "killed") == -signal.SIGKILL
    assert run(10**9, tmp_path / "killed") == 0
    whole, killed = _weights(tmp_path / "whole"), _weights(tmp_path / "killed")
    for name in ("last.safetensors", "best.safetensors"):
        assert killed[name] == whole[name]


def test_end_to_end_awp_changes_the_weights_and_reports_steps(tmp_path):
    attack = PGD(threat=ThreatModel(eps=0.2), steps=2)
    runs = {name: _small(make()) for name, make in (("at", digits_at), ("awp", digits_at_awp))}
    ends = {}
    for name, run in runs.items():
        run = replace(run, objective=AT(attack=attack))
        events = list(train(run, tmp_path / name, name=name))
        assert [event.done for event in events if isinstance(event, Step)] == list(range(1, events[-2].total + 1))
        ends[name] = _weights(tmp_path / name)["last.safetensors"]
    assert ends["at"] != ends["awp"]


def test_contract_results_of_a_replaced_checkpoint_are_removed(tmp_path):
    run = _small(digits_at())
    results = tmp_path / "results"
    for event in train(run, tmp_path, name="digits_at"):
        if isinstance(event, Epoch) and event.log.epoch == 1:
            results.mkdir()
            for name in ("flatness-last.json", "evaluation-last-test.json", "flatness-epoch-0001.json"):
                (results / name).write_text("{}")
    assert [path.name for path in results.iterdir()] == ["flatness-epoch-0001.json"]


def test_contract_what_cannot_be_trained_leaves_nothing(tmp_path):
    run = replace(_small(digits_at()), augment=CropFlip(pad=20, mode="reflect"))
    with pytest.raises(BadInput):
        list(train(run, tmp_path / "run", name="digits_at"))
    assert not (tmp_path / "run").exists()


def test_contract_an_epoch_that_would_end_in_an_error_is_refused_and_leaves_nothing(tmp_path):
    run = _small(digits_at())
    size = len(run.data.load(seed=run.seed).train) - 1  # one image is left, of one pixel before the last normalisation
    run = replace(run, model=PreActResNet(width=1), training=replace(run.training, batch_size=size))
    with pytest.raises(BadInput, match="last batch has 1 image"):
        list(train(run, tmp_path / "run", name="digits_at"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_contract_the_caller_keeps_its_threads(tmp_path):
    before = torch.get_num_threads()
    run = replace(_small(digits_at()), runtime=Runtime(threads=before + 1))
    seen = {torch.get_num_threads() for _ in train(run, tmp_path, name="digits_at")}
    assert seen == {before}


# -- several runs --------------------------------------------------------------------------------------

TRIED = Decision(precision="float32", compile="no", threads=2, processes=2, milliseconds={}, reason="a trial")


def _seeds(folder: Path, count: int) -> list[tuple[Run, Path]]:
    return [(replace(_small(digits_at(), batch_size=400), seed=n), folder / f"seed-{n}") for n in range(count)]


def _decided(folder: Path) -> tuple[int, int]:
    decided = read_json(folder / "run.json")["decided"]
    return decided["threads"], decided["processes"]


@pytest.mark.slow
def test_end_to_end_side_by_side_gives_the_bits_that_each_run_gives_alone(tmp_path):
    runs = _seeds(tmp_path / "beside", 2)
    events = list(train_several(runs, name="digits_at", processes=2))
    steps = {n: [event.done for m, event in events if n == m and isinstance(event, Step)] for n in (0, 1)}
    assert steps[0] == steps[1] == list(range(1, len(steps[0]) + 1))
    run, folder = runs[1]
    assert _decided(folder) == (1, 2) and read_json(folder / "run.json")["provenance"]["threads"] == 1
    write_json(tmp_path / "alone" / "run.json", read_json(folder / "run.json"))
    list(train(run, tmp_path / "alone", name="digits_at"))
    for name in ("last.safetensors", "best.safetensors"):
        assert _weights(tmp_path / "alone")[name] == _weights(folder)[name]
    assert list(train_several(runs, name="digits_at")) == []


@pytest.mark.slow
def test_contract_a_trial_of_the_first_run_decides_for_all(tmp_path, monkeypatch):
    monkeypatch.setattr(begun, "decide", lambda *_, **__: TRIED)
    runs = _seeds(tmp_path, 2)
    next(train(*runs[0], name="digits_at"))  # alone: the threads that it begins with are kept
    assert {n for n, _ in train_several(runs, name="digits_at")} == {0, 1}
    assert [_decided(folder) for _, folder in runs] == [(2, 2), (1, 2)]
    next(train_several([(runs[0][0], tmp_path / "single")], name="digits_at"))
    assert _decided(tmp_path / "single") == (2, 2)


def test_contract_one_after_another_where_the_seeds_do_not_come_out_even(tmp_path, monkeypatch):
    tried = replace(TRIED, milliseconds={"float32, 1 threads": 1.7, "float32, 2 threads": 1.0})
    monkeypatch.setattr(begun, "decide", lambda *_, **__: tried)
    runs = _seeds(tmp_path, 4)
    beside = [execute._for_each(runs[:count], None, 0) for count in (2, 3, 4)]
    assert [made and (made.threads, made.processes) for made in beside] == [(1, 2), None, (1, 2)]


@pytest.mark.parametrize(("count", "asked", "wanted"), [(1, 0, (1, 0)), (2, 0, (2, 0)), (3, 2, (3, 2))])
def test_contract_memory_is_divided_among_those_that_may_train_beside_each_other(
    tmp_path, monkeypatch, count, asked, wanted
):
    seen = []
    monkeypatch.setattr(begun, "decide", lambda *_, **how: seen.append((how["tasks"], how["processes"])) or TRIED)
    monkeypatch.setattr(execute, "pooled", lambda work, parcel, *_, **__: execute._in_turn(parcel, [0]))
    next(train_several(_seeds(tmp_path, count), name="digits_at", processes=asked))
    assert seen == [wanted]


@pytest.mark.slow
def test_contract_one_after_another_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(begun, "decide", lambda *_, **__: TRIED)
    runs = _seeds(tmp_path, 2)
    numbers = [n for n, _ in train_several(runs, name="digits_at", processes=1)]
    assert numbers == sorted(numbers) and set(numbers) == {0, 1}
    assert [_decided(folder) for _, folder in runs] == [(2, 2), (2, 2)]


@pytest.mark.parametrize(
    ("runtime", "processes", "reason"),
    [(Runtime(), -1, "at least 0"), (Runtime(threads=2), 2, "threads is 2"), (Runtime(), 2, "not cuda")],
)
def test_contract_processes_that_make_no_sense_are_refused(runtime, processes, reason, tmp_path, monkeypatch):
    if "cuda" in reason:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    runs = [(replace(run, runtime=runtime), folder) for run, folder in _seeds(tmp_path, 2)]
    with pytest.raises(BadInput, match=reason):
        next(train_several(runs, name="digits_at", processes=processes))
    assert not any(tmp_path.iterdir())


def test_contract_a_foreign_folder_is_refused_before_anything_is_trained(tmp_path):
    runs = _seeds(tmp_path, 2)
    (tmp_path / "seed-1").write_text("")
    with pytest.raises(BadInput, match="seed-1 is a file"):
        next(train_several(runs, name="digits_at"))
    assert not (tmp_path / "seed-0").exists()


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_end_to_end_what_diverges_is_named(tmp_path, processes):
    good, (run, folder) = _seeds(tmp_path, 2)
    run = replace(run, training=replace(run.training, optimizer=Adam(lr=1e30)))
    with pytest.raises(Diverged, match=r"seed-1: training stopped in epoch 1, step \d+: .*; the same command without"):
        list(train_several([good, (run, folder)], name="digits_at", processes=processes))


def test_end_to_end_linear_networks_train_as_one_and_each_as_alone(tmp_path):
    runs = [(replace(run, model=Linear()), folder) for run, folder in _seeds(tmp_path / "beside", 5)]
    events = train_several(runs, name="digits_at")
    first = [next(events) for _ in range(7)]
    assert [n for n, _ in first] == [0, 1, 2, 3, 4, 0, 1]  # in step, not one after another
    events.close()
    assert {n for n, _ in train_several(runs, name="digits_at")} == {0, 1, 2, 3, 4}
    list(train_several([(run, tmp_path / "whole" / folder.name) for run, folder in runs], name="digits_at"))
    list(train(*(runs[3][0], tmp_path / "alone"), name="digits_at"))
    for _, folder in runs:
        assert _weights(folder)["last.safetensors"] == _weights(tmp_path / "whole" / folder.name)["last.safetensors"]
    together, alone = (
        safetensors.torch.load(_weights(folder)["last.safetensors"]) for folder in (runs[3][1], tmp_path / "alone")
    )
    assert [read_json(folder / "run.json")["decided"]["together"] for folder in (runs[3][1], tmp_path / "alone")] == [
        True,
        False,
    ]
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-3, atol=1e-4)
    assert list(train_several(runs, name="digits_at")) == []


def test_contract_what_was_attacked_together_goes_on_alone_with_a_warning(tmp_path):
    runs = [(replace(run, model=Linear()), folder) for run, folder in _seeds(tmp_path, 4)]
    list(train(*runs[0], name="digits_at"))  # alone, and so it stays
    events = train_several(runs, name="digits_at")
    assert [next(events)[0] for _ in range(4)] == [1, 2, 3, 1]
    events.close()
    marks = [read_json(folder / "run.json")["decided"]["together"] for _, folder in runs]
    assert marks == [False, True, True, True]
    with pytest.warns(UserWarning, match="seed-1 was attacked together with other seeds and goes on alone"):
        list(train_several(runs[:2], name="digits_at"))
    assert list(train_several(runs[:2], name="digits_at")) == []  # nothing more to warn of


_SEVERAL = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from tests_run import make
from robustscape.recipes.execute import train_several
if __name__ == "__main__":
    at, out = int(sys.argv[1]), Path(sys.argv[2])
    runs = [(replace(make(), seed=n), out / str(n)) for n in range(3)]
    for number, event in enumerate(train_several(runs, name="digits_at_awp", processes=2)):
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_end_to_end_killed_again_and_again_several_end_with_the_same_bits(tmp_path):
    (tmp_path / "tests_run.py").write_text(_MAKE)
    (tmp_path / "several.py").write_text(_SEVERAL)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run(at: int, out: Path) -> int:
        command = [sys.executable, str(tmp_path / "several.py"), str(at), str(out)]
        return subprocess.run(command, env=environment, check=False).returncode

    assert run(10**9, tmp_path / "whole") == 0
    for at in (0, 30, 45):  # counted from where the runs before were killed
        assert run(at, tmp_path / "killed") == -signal.SIGKILL
    assert run(10**9, tmp_path / "killed") == 0
    for seed in "012":
        whole, killed = _weights(tmp_path / "whole" / seed), _weights(tmp_path / "killed" / seed)
        assert killed["last.safetensors"] == whole["last.safetensors"]
        assert _decided(tmp_path / "killed" / seed) == (1, 2)


def test_end_to_end_a_tracking_set_is_logged_beside_the_others(tmp_path):
    run = replace(_small(digits_at(), track_test=False), tracking=Digits(test=40))
    run = replace(run, training=replace(run.training, epochs=1))
    (log,) = [event.log for event in train(run, tmp_path / "run", name="r") if isinstance(event, Epoch)]
    assert {name: of.n for name, of in log.tracked.items()}.keys() == {"train", "validation", "tracking"}
    assert log.tracked["tracking"].n == 40
    images = hold((torch.rand(20, 1, 9, 9), torch.arange(20) % 10), (torch.rand(20, 1, 9, 9), torch.arange(20) % 10))
    with pytest.raises(BadInput, match="has images"):
        next(train(replace(run, tracking=images), tmp_path / "other", name="r"))
    assert not (tmp_path / "other").exists()
