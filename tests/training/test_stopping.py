"""Which epoch is chosen, when a training ends, and which ways to choose are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.threat import ThreatModel
from robustscape.data.batches import Loader
from robustscape.objectives.at import AT
from robustscape.objectives.natural import Natural
from robustscape.runtime import TRUTH
from robustscape.training.checkpoints import digest, load_state, save_state
from robustscape.training.loop import Epoch, Step, fit, start
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.schedules.constant import Constant
from robustscape.training.settings import Training
from robustscape.training.together import fit_together
from robustscape.types import BadInput, Images

OBJECTIVE = AT(attack=FGSM(threat=ThreatModel(eps=0.1)))
SETTINGS = Training(epochs=6, batch_size=16, optimizer=SGD(lr=0.5), lr=Constant(), track=32, guard="no")


def _images():
    x = torch.randint(0, 256, (32, 1, 6, 6), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return Images(x=x, y=torch.arange(32) % 2, index=torch.arange(32), classes=("a", "b"), name="toy")


def _net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 2))


def _fit(settings, *, scores=None, state=None, objective=OBJECTIVE):
    state = state or start(_net(), objective, settings)
    loader = Loader(images=_images(), batch_size=16, seed=1)
    kept = None if scores is None else lambda model: scores[state.epoch]
    return state, fit(state, loader, objective=objective, weights=None, settings=settings, runtime=TRUTH, seed=1,
                      tracked={"validation": _images()}, score=kept)  # fmt: skip


def _logs(events):
    return [event.log for event in events if isinstance(event, Epoch)]


def test_closed_form_the_lowest_robust_loss_is_chosen():
    logs = _logs(_fit(replace(SETTINGS, select="robust_loss"))[1])
    losses = [log.tracked["validation"].robust_loss for log in logs]
    assert [log.selected for log in logs] == [losses[k] < min([*losses[:k], 1e9]) for k in range(6)]
    assert [log.score for log in logs] == [-loss for loss in losses]


def test_closed_form_patience_ends_after_so_many_epochs_without_a_better_one():
    settings = replace(SETTINGS, select="flatness", patience=2, epochs=8)
    state, events = _fit(settings, scores=[-0.5, -0.4, -0.45, -0.3, -0.3, -0.6, 0.0, 0.0])
    logs = _logs(events)
    assert [log.selected for log in logs] == [True, True, False, True, False, False]
    assert [log.stopped for log in logs] == [""] * 5 + ["no better epoch on validation for 2 epochs"]
    assert (state.best_epoch, state.epoch, state.best) == (4, 6, -0.3)
    assert list(_fit(settings, scores=[], state=state)[1]) == []


def test_contract_what_a_score_draws_follows_from_the_seed():
    class Drawing:
        def __getitem__(self, epoch):
            return float(torch.rand(()))

    before, logs = torch.get_rng_state(), _logs(_fit(replace(SETTINGS, select="flatness"), scores=Drawing())[1])
    assert torch.equal(torch.get_rng_state(), before)
    assert len({log.score for log in logs}) == 1 < len(logs)


def test_contract_a_training_at_its_end_was_not_stopped():
    logs = _logs(_fit(replace(SETTINGS, select="nearby_loss", patience=5), scores=[0.0] * 6)[1])
    assert len(logs) == 6 and not logs[-1].stopped


def test_end_to_end_patience_goes_on_after_a_stop_as_if_there_were_none(tmp_path):
    settings, scores = replace(SETTINGS, select="flatness", patience=3, epochs=8), [0.0, 0.1, 0.0, 0.0, 0.0, 9.0]
    whole, events = _fit(settings, scores=scores)
    whole_logs = _logs(events)
    part, events = _fit(settings, scores=scores)
    for event in events:
        if isinstance(event, Step) and event.done == 7:
            break
    save_state(part, tmp_path / "state.safetensors")
    state = start(_net(), OBJECTIVE, settings)
    load_state(state, tmp_path / "state.safetensors")
    logs = _logs(_fit(settings, scores=scores, state=state)[1])
    assert len(whole_logs) == 5 and [log.stopped for log in logs] == [log.stopped for log in whole_logs[3:]]
    assert digest(state.model) == digest(whole.model)


def test_contract_networks_side_by_side_end_each_by_itself():
    settings = replace(SETTINGS, select="flatness", patience=1)
    states = [start(_net(), OBJECTIVE, settings) for _ in range(2)]
    scores = ([0.0, 0.1, 0.0], [0.0, 0.1, 0.2, 0.2])
    events = fit_together(
        states,
        [Loader(images=_images(), batch_size=16, seed=1) for _ in states],
        objective=OBJECTIVE,
        weights=None,
        settings=settings,
        runtime=replace(TRUTH, compile="no", threads=1),
        seeds=[1, 2],
        tracked=[{"validation": _images()}] * 2,
        scores=[lambda model, k=k: scores[k][states[k].epoch] for k in range(2)],
    )
    ends = [(number, event.log.epoch) for number, event in events if isinstance(event, Epoch) and event.log.stopped]
    assert ends == [(0, 3), (1, 4)]


def test_contract_a_network_that_a_guard_warns_of_is_not_chosen_for_its_flatness():
    settings = replace(SETTINGS, select="flatness", guard="warn", epochs=1, optimizer=SGD(lr=1e-9))
    state = start(_net(), OBJECTIVE, settings)
    with torch.no_grad():
        state.model[1].weight.zero_()
    (log,) = _logs(_fit(settings, scores=[0.0], state=state)[1])
    assert log.warnings[0].startswith("constant output") and not log.selected and log.score is None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (dict(patience=0), "at least 1 epoch"),
        (dict(patience=3, track=0), "set training.track above 0"),
        (dict(patience=3, swa_start=2), "training.swa_start needs"),
        (dict(select="robust_loss", track=0), "nothing is tracked"),
        (dict(select="flatness", track=0), "nothing is tracked"),
        (dict(select="flatness", best_on_test=True), "validation alone"),
        (dict(guard="halt"), "not one of warn, stop, no"),
        (dict(track_first=-1), "at least 0"),
    ],
)
def test_contract_what_cannot_be_meant_is_refused(wrong, words):
    with pytest.raises(BadInput, match=words):
        Training(**wrong)


def test_contract_a_loss_that_is_not_tracked_and_a_score_that_is_not_there_are_refused():
    for select in ("robust", "robust_loss"):
        with pytest.raises(BadInput, match=rf"'{select}', but neither .* training\.track_attack"):
            start(_net(), Natural(), replace(SETTINGS, select=select))
        start(_net(), Natural(), replace(SETTINGS, select=select, track_attack=OBJECTIVE.attack))
    with pytest.raises(BadInput, match="hand the loop a score"):
        next(_fit(replace(SETTINGS, select="flatness"))[1])
