"""Several Runs that are trained together end as each does alone."""

from __future__ import annotations

import importlib.util
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from robustscape.models.linear import Linear
from robustscape.recipes import begun, execute
from robustscape.recipes.digits import digits_at
from robustscape.recipes.execute import train, train_several
from robustscape.recipes.run import Run
from robustscape.results import read_json, write_json
from robustscape.runtime import Runtime
from robustscape.runtime.deciding import Decision
from robustscape.training.loop import Step
from robustscape.training.optimizers.adam import Adam
from robustscape.types import BadInput, Diverged

spec = importlib.util.spec_from_file_location("small_runs", Path(__file__).with_name("small_runs.py"))
small_runs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small_runs)
killable, small, weights = small_runs.killable, small_runs.small, small_runs.weights

TRIED = Decision(precision="float32", compile="no", threads=2, processes=2, milliseconds={}, reason="a trial")


def _seeds(folder: Path, count: int) -> list[tuple[Run, Path]]:
    return [(replace(small(digits_at(), batch_size=400), seed=n), folder / f"seed-{n}") for n in range(count)]


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
        assert weights(tmp_path / "alone")[name] == weights(folder)[name]
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
        assert weights(folder)["last.safetensors"] == weights(tmp_path / "whole" / folder.name)["last.safetensors"]
    together, alone = (
        safetensors.torch.load(weights(folder)["last.safetensors"]) for folder in (runs[3][1], tmp_path / "alone")
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
    run = killable(tmp_path, _SEVERAL)
    assert run(10**9, tmp_path / "whole") == 0
    for at in (0, 30, 45):  # counted from where the runs before were killed
        assert run(at, tmp_path / "killed") == -signal.SIGKILL
    assert run(10**9, tmp_path / "killed") == 0
    for seed in "012":
        whole, killed = weights(tmp_path / "whole" / seed), weights(tmp_path / "killed" / seed)
        assert killed["last.safetensors"] == whole["last.safetensors"]
        assert _decided(tmp_path / "killed" / seed) == (1, 2)
