"""What is tracked: sets by the epoch, split by clean prediction, and the first and last steps by themselves."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.data.batches import Loader
from robustscape.data.targets import Targets
from robustscape.objectives.at import AT
from robustscape.objectives.natural import Natural
from robustscape.objectives.self_supervised import SelfSupervised
from robustscape.runtime import TRUTH, fast
from robustscape.streams import Streams
from robustscape.training.checkpoints import digest, load_state, save_state
from robustscape.training.log import TrainingLog, read_log, write_log
from robustscape.training.loop import Epoch, Step, fit, start
from robustscape.training.optimizers.entropy_sgd import EntropySGD
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.settings import Training
from robustscape.training.tracking import track
from robustscape.types import Images
from robustscape.weights.awp import AWP

ATTACK = PGD(threat=ThreatModel(eps=0.1), steps=2)
SETTINGS = Training(epochs=3, batch_size=16, optimizer=SGD(lr=0.05), track=0, track_first=4, track_last=2)


def _images(n=40):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 1, 6, 6), generator=generator).to(torch.uint8)
    return Images(x=x, y=torch.arange(n) % 2, index=torch.arange(n), classes=("a", "b"), name="toy")


def _net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def _fit(settings=SETTINGS, *, objective=None, weights=None, state=None):
    objective = objective or AT(attack=ATTACK)
    state = state or start(_net(), objective, settings)
    loader = Loader(images=_images(), batch_size=settings.batch_size, seed=1)
    return state, fit(
        state, loader, objective=objective, weights=weights, settings=settings, runtime=TRUTH, seed=1, tracked={}
    )


def _line():
    """A linear network, without statistics that a forward moves."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 2))


def _steps(events):
    return [step for event in events if isinstance(event, Epoch) for step in event.log.steps]


@pytest.mark.parametrize("bias", [0.0, 100.0, -100.0])
def test_closed_form_a_set_is_split_by_clean_prediction(bias):
    model, images = _net().eval(), _images()
    if bias:  # all of class 0, and all of class 1
        images = images.take(torch.arange(0, 40, 2))
        with torch.no_grad():
            model[4].bias[0] = bias
    found = track(
        model, fast(model, TRUTH), images, ATTACK, n=40, batch_size=16, seed=5, runtime=replace(TRUTH, device="cpu")
    )
    x, y = images.pixels(), images.y
    x_adv = ATTACK(model, x, y, rng=Streams(5, ("track",), images.index))
    with torch.no_grad():
        clean, attacked = model(x), model(x_adv)
    right = clean.argmax(1) == y
    fooled = ~right | (attacked.argmax(1) != y)
    loss = torch.maximum(*(F.cross_entropy(logits, y, reduction="none") for logits in (clean, attacked)))
    means = [
        float(fooled[right].double().mean()) if right.any() else None,
        float(loss[right].mean()) if right.any() else None,
        float(loss[~right].mean()) if not right.all() else None,
    ]
    assert bias or 0 < int(right.sum()) < len(y)
    assert [found.correct_robust_error, found.correct_robust_loss, found.incorrect_robust_loss] == [
        None if mean is None else pytest.approx(mean, abs=1e-5) for mean in means
    ]


def test_closed_form_the_first_and_last_steps_are_logged_at_the_weights_they_begin_from():
    state, events = _fit(weights=AWP())
    logged, errors, norms, distances = [], [], [], []
    loader, net = Loader(images=_images(), batch_size=16, seed=1), _net()
    batches = [batch for epoch in range(3) for batch in loader.epoch(epoch)]
    for event in events:
        if isinstance(event, Epoch):
            logged += event.log.steps
            continue
        batch = batches[event.done - 1]
        x_adv = ATTACK(net.eval(), batch.x, batch.y, rng=Streams(1, ("train", event.done - 1), batch.index))
        errors.append(float((net(x_adv).argmax(1) != batch.y).float().mean()))
        norms.append(event.log.gradient_norm)
        moved = [(a - b).detach().square().sum() for a, b in zip(net.parameters(), _net().parameters(), strict=True)]
        distances.append(float(torch.stack(moved).sum().sqrt()))
        net.load_state_dict(state.model.state_dict())
    places = [0, 1, 2, 3, 7, 8]
    assert [step.step for step in logged] == places
    assert [step.gradient_norm for step in logged] == [norms[k] for k in places]
    assert [step.robust_error for step in logged] == pytest.approx([errors[k] for k in places], abs=1e-6)
    assert [step.distance for step in logged] == pytest.approx([distances[k] for k in places], rel=1e-4)
    assert logged[0].distance == 0 < logged[1].distance


def test_contract_tracking_steps_changes_nothing():
    bits = []
    for settings in (SETTINGS, replace(SETTINGS, track_first=0, track_last=0)):
        state, events = _fit(settings, weights=AWP())
        assert len(_steps(events)) == 6 * bool(settings.track_first)
        bits.append(digest(state.model))
    assert bits[0] == bits[1]


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_end_to_end_steps_come_back_after_a_stop(tmp_path, stop):
    _, events = _fit()
    whole = _steps(events)
    part, events = _fit()
    before = []
    for event in events:
        before += _steps([event])
        if isinstance(event, Step) and event.done == stop:
            break
    save_state(part, tmp_path / "state.safetensors")
    state = start(_net(), AT(attack=ATTACK), SETTINGS)
    load_state(state, tmp_path / "state.safetensors")
    _, events = _fit(state=state)
    assert before + _steps(events) == whole


@pytest.mark.parametrize(
    ("objective", "optimizer", "count"),
    [
        (Natural(), SGD(lr=0.05), 6),
        (SelfSupervised(form="five", attack=ATTACK), SGD(lr=0.05), 6),
        (AT(attack=ATTACK), EntropySGD(steps=2), 6),
    ],
)
def test_contract_steps_are_tracked_under_every_kind_of_objective_and_optimiser(objective, optimizer, count):
    _, events = _fit(replace(SETTINGS, optimizer=optimizer), objective=objective)
    steps = _steps(events)
    assert len(steps) == count and all(0 <= step.robust_error <= 1 for step in steps)


def test_contract_the_log_keeps_steps_and_warnings_and_reads_lines_without_them(tmp_path):
    _, events = _fit()
    epochs = [event.log for event in events if isinstance(event, Epoch)]
    epochs[1] = replace(epochs[1], warnings=("dead layer: so",), stopped="dead layer: so")
    log, path = TrainingLog(epochs=tuple(epochs)), tmp_path / "log.jsonl"
    write_log(path, log)
    assert read_log(path) == log
    old = json.loads(path.read_text().splitlines()[2])
    for key in ("steps", "warnings", "stopped", "score"):
        del old[key]
    path.write_text(json.dumps(old))
    (read,) = read_log(path).epochs
    assert (read.steps, read.warnings, read.stopped, read.score) == ((), (), "", None)


def test_closed_form_a_step_on_several_batches_is_one_step_and_tracked_whole():
    """Weights that hardly walk: the errors of all its batches are those of the first weights."""
    optimizer = EntropySGD(steps=2, step_size=1e-9, noise=0.0)
    settings = replace(SETTINGS, optimizer=optimizer, track_first=2, track_last=1)
    _, events = _fit(settings, state=start(_line(), AT(attack=ATTACK), settings))
    logged = _steps(events)
    loader, net = Loader(images=_images(), batch_size=16, seed=1), _line()
    batches, errors = [batch for epoch in range(3) for batch in loader.epoch(epoch)], []
    for done, batch in enumerate(batches):
        x_adv = ATTACK(net, batch.x, batch.y, rng=Streams(1, ("train", done), batch.index))
        errors.append(float((net(x_adv).argmax(1) != batch.y).float().mean()))
    assert [step.step for step in logged] == [0, 2, 8]
    wanted = [(errors[0] + errors[1]) / 2, errors[2], errors[8]]
    assert [step.robust_error for step in logged] == pytest.approx(wanted, abs=1e-6) and errors[0] != errors[1]


def test_closed_form_mixed_images_are_judged_by_the_label_of_the_larger_share():
    settings = replace(SETTINGS, optimizer=SGD(lr=1e-12, momentum=0.0, weight_decay=0.0), track_first=9, guard="no")
    loader = Loader(images=_images(), batch_size=16, seed=1, targets=Targets(mixup=1.0))
    state = start(_line(), Natural(), settings)
    events = fit(state, loader, objective=Natural(), weights=None, settings=settings, runtime=TRUTH, seed=1, tracked={})
    logged, net, wanted, shares = _steps(events), _line(), [], []
    for batch in (batch for epoch in range(3) for batch in loader.epoch(epoch)):
        own = batch.mixed[torch.arange(len(batch)), batch.y]  # of two classes: what is not its own is the other's
        larger = torch.where(own > 0.5, batch.y, 1 - batch.y)
        wanted.append(float((net(batch.x).argmax(1) != larger).float().mean()))
        shares.append(float(own.min()))
    assert [step.robust_error for step in logged] == pytest.approx(wanted, abs=1e-6)
    assert min(shares) < 0.5 < max(shares)
