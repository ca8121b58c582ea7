"""Measurements while a network trains: when, of what, and that the training does not notice them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.landscape.flatness import AverageFlatness
from robustscape.landscape.histograms import Histogram
from robustscape.models.loading import load
from robustscape.objectives.at import AT
from robustscape.recipes.digits import digits_at
from robustscape.recipes.execute import train
from robustscape.recipes.run import Watch
from robustscape.recipes.watching import Measuring
from robustscape.results import load as result_of
from robustscape.training.loop import Epoch
from robustscape.types import BadInput

FLATNESS = AverageFlatness(attack=PGD(steps=1, result="best_loss"), samples=4)


def _run(**changes):
    run = digits_at()
    attack = PGD(threat=ThreatModel(eps=0.2), steps=2)
    training = replace(run.training, epochs=3, track=0, keep_every=1)
    return replace(run, objective=AT(attack=attack), training=training, **changes)


def _watch(*measurements):
    return Watch(measurements=measurements, every=2, n=20, batch_size=20)


def test_end_to_end_what_is_due_is_measured_under_the_threat_that_judges(tmp_path):
    run = _run(watch=_watch(FLATNESS, Histogram()))
    events = [event for event in train(run, tmp_path, name="r") if isinstance(event, Measuring) and event.file]
    assert [(event.name, event.epoch) for event in events] == [
        ("flatness", 2),
        ("histograms", 2),
        ("flatness", 3),
        ("histograms", 3),
    ]
    assert not list(tmp_path.glob("results/*.partial"))
    found = result_of(tmp_path / "results" / "flatness-epoch-0002.json")
    assert found.n == 20 and found.split == "test" and "linf 0.1," in found.attack
    kept = load(tmp_path, checkpoint="epoch-0002")
    norm = torch.linalg.vector_norm(next(kept.parameters()).detach().double())
    histograms = result_of(tmp_path / "results" / "histograms-epoch-0002.json")
    assert histograms.norm[0] == pytest.approx(float(norm), rel=1e-6)


def test_end_to_end_training_does_not_notice(tmp_path):
    for name, watch in (("with", _watch(FLATNESS)), ("without", Watch())):
        list(train(_run(watch=watch), tmp_path / name, name="r"))
    for name in ("last", "epoch-0002"):
        one, other = (load(tmp_path / side, checkpoint=name).state_dict() for side in ("with", "without"))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_end_to_end_a_measurement_that_was_stopped_goes_on(tmp_path):
    run = _run(watch=_watch(FLATNESS))
    events = train(run, tmp_path / "stopped", name="r")
    for event in events:
        if isinstance(event, Measuring) and event.done == 2:
            break
    events.close()
    assert (tmp_path / "stopped" / "results" / "flatness-epoch-0002.partial").exists()
    rest = list(train(run, tmp_path / "stopped", name="r"))
    assert isinstance(rest[0], Measuring) and rest[0].epoch == 2 and rest[0].done == 2
    assert [event.log.epoch for event in rest if isinstance(event, Epoch)] == [3]
    list(train(run, tmp_path / "whole", name="r"))
    one, other = (
        result_of(tmp_path / name / "results" / "flatness-epoch-0002.json").robust_losses.tolist()
        for name in ("stopped", "whole")
    )
    assert one == other


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"every": 0}, "every must be at least 1"),
        ({"n": 0}, "n must be at least 1"),
        ({"measurements": (Histogram(), Histogram())}, "named twice"),
    ],
)
def test_contract_what_cannot_be_meant_is_refused(changes, words):
    with pytest.raises(BadInput, match=words):
        Watch(**changes)
