"""Measurements while a network trains: when, of what, and that the training does not notice them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.data.digits import Digits
from robustscape.evaluation.subject import subject
from robustscape.landscape.flatness import AverageFlatness
from robustscape.landscape.histograms import Histogram
from robustscape.landscape.runner import measure, under
from robustscape.landscape.slices import Slice
from robustscape.landscape.spectrum import Spectrum
from robustscape.models.linear import Linear
from robustscape.models.loading import load
from robustscape.objectives.at import AT
from robustscape.objectives.natural import Natural
from robustscape.recipes.digits import digits_at
from robustscape.recipes.execute import train
from robustscape.recipes.run import Watch
from robustscape.recipes.watching import Measuring
from robustscape.results import load as result_of
from robustscape.training.loop import Epoch
from robustscape.training.optimizers.adam import Adam
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.schedules.constant import Constant
from robustscape.training.settings import Training
from robustscape.types import BadInput

FLATNESS = AverageFlatness(attack=PGD(steps=1, result="best_loss"), samples=4)


def _run(**changes):
    run = digits_at()
    attack = PGD(threat=ThreatModel(eps=0.2), steps=2)
    training = replace(run.training, epochs=3, track=0, keep_every=1)
    return replace(run, **{"objective": AT(attack=attack), "training": training} | changes)


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


def test_end_to_end_a_measurement_that_the_network_is_not_made_for_is_left_out(tmp_path):
    watch = _watch(Spectrum(k=700, most=1000, random_weights=0), Histogram())
    run = _run(model=Linear(), training=replace(_run().training, epochs=1), watch=watch)
    with pytest.warns(UserWarning, match="spectrum is left out: k"):
        events = list(train(run, tmp_path, name="r"))
    assert [event.name for event in events if isinstance(event, Measuring) and event.file] == ["histograms"]
    assert [path.name for path in sorted((tmp_path / "results").iterdir())] == ["histograms-epoch-0001.json"]


def test_end_to_end_a_measurement_that_cannot_be_made_does_not_end_the_training(tmp_path):
    path = Slice(attack=FLATNESS.attack, along="path", directions=2, positions=3, other=str(tmp_path))
    run = _run(training=replace(_run().training, epochs=2), watch=replace(_watch(path, Histogram()), every=1))
    with pytest.warns(UserWarning, match="slices is left out: .* directions"):
        events = list(train(run, tmp_path, name="r"))
    assert sum(isinstance(event, Epoch) for event in events) == 2
    made = [(event.name, event.epoch) for event in events if isinstance(event, Measuring) and event.file]
    assert made == [("histograms", 1), ("slices", 2), ("histograms", 2)]


def test_end_to_end_a_spectrum_starts_from_the_eigenvectors_of_the_epoch_before(tmp_path):
    watch = replace(_watch(Spectrum(attack=None, k=3, coordinates=("raw",), random_weights=0)), every=1)
    run = _run(watch=watch, training=replace(_run().training, epochs=3))
    events = train(run, tmp_path / "stopped", name="r")
    next(event for event in events if isinstance(event, Measuring) and event.epoch == 2 and event.done == 1)
    events.close()  # what is kept then is what the rest goes on from
    list(train(run, tmp_path / "stopped", name="r"))
    list(train(run, tmp_path / "whole", name="r"))
    for epoch in (1, 2, 3):
        name = f"results/spectrum-epoch-{epoch:04d}.json"
        stopped, whole = (result_of(tmp_path / side / name) for side in ("stopped", "whole"))
        assert stopped.eigenvalues.tolist() == whole.eigenvalues.tolist()
        assert stopped.products.tolist() == whole.products.tolist()
    kept = [path.name for path in (tmp_path / "whole" / "results").iterdir() if path.is_dir()]
    assert kept == ["spectrum-epoch-0003"]
    again = _run(watch=replace(watch, every=3), training=run.training)
    list(train(again, tmp_path / "cold", name="r"))
    cold, warm = (result_of(tmp_path / side / "results/spectrum-epoch-0003.json") for side in ("cold", "whole"))
    assert warm.eigenvalues == pytest.approx(cold.eigenvalues, rel=1e-3) and warm.converged.all()
    assert warm.products < cold.products


@pytest.mark.slow
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
    left = tmp_path / "whole" / "results" / "flatness-epoch-0003.partial"  # by a kill after the result was written
    left.write_text("{}")
    assert list(train(run, tmp_path / "whole", name="r")) == [] and not left.exists()


@pytest.mark.parametrize("select", [pytest.param("flatness", marks=pytest.mark.slow), "nearby_loss"])
def test_end_to_end_an_epoch_is_chosen_by_flatness_on_validation_and_training_ends(tmp_path, select):
    run = _run(watch=Watch(n=20, batch_size=20), flatness=FLATNESS)
    training = replace(run.training, epochs=6, track=20, track_every=1, track_test=False, select=select, patience=1)
    training = replace(training, guard="no", optimizer=SGD(lr=0.2), lr=Constant(), keep_every=1)
    run = replace(run, training=training)
    first = next(event.log for event in train(run, tmp_path, name="r") if isinstance(event, Epoch))  # then killed
    logs = [event.log for event in train(run, tmp_path, name="r") if isinstance(event, Epoch)]
    assert logs[0].epoch == 2 and logs[-1].stopped and logs[-1].epoch < 6
    assert list(train(run, tmp_path, name="r")) == []
    data = run.data.load(seed=run.seed).validation
    for log in (first, *logs):
        kept = load(tmp_path, checkpoint=f"epoch-{log.epoch:04d}")
        seen = subject(kept, data.pixels(slice(20)), data.y[:20], index=data.index[:20], seed=run.seed, batch=20)
        found = measure(under(run.evaluation.threat(), FLATNESS), seen)
        loss = found.robust.value + (found.reference_robust_loss if select == "nearby_loss" else 0)
        assert log.score == pytest.approx(-loss, abs=1e-5)
    best = max((first, *logs), key=lambda log: log.score)
    one, other = (load(tmp_path, checkpoint=name).state_dict() for name in ("best", f"epoch-{best.epoch:04d}"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_end_to_end_an_early_end_is_an_end_to_what_is_watched(tmp_path):
    training = replace(_run().training, epochs=5, optimizer=Adam(lr=100), guard="stop")
    run = replace(_run(watch=Watch(measurements=(Histogram(),), every=5)), objective=Natural(), training=training)
    events = list(train(run, tmp_path, name="r"))
    assert [event.log.epoch for event in events if isinstance(event, Epoch)] == [1]
    assert isinstance(events[-1], Measuring) and events[-1].file.endswith("histograms-epoch-0001.json")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"flatness": Histogram()}, "not by Histogram"),
        ({"flatness": FLATNESS}, "training.select is 'auto'"),
        ({"tracking": Digits()}, "set training.track above 0"),
        ({"objective": Natural(), "training": Training(select="robust_loss")}, "did you mean clean"),
    ],
)
def test_contract_runs_that_cannot_be_meant_are_refused(tmp_path, changes, words):
    with pytest.raises(BadInput, match=words):
        next(train(_run(**changes), tmp_path / "new", name="r"))
    assert not (tmp_path / "new").exists()


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
