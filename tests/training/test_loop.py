"""The loop: what it logs, chooses, keeps and resumes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.data.batches import Loader
from robustscape.objectives.at import AT
from robustscape.runtime import TRUTH
from robustscape.training.averaging import average_of, update_average
from robustscape.training.checkpoints import digest, load_state, read_metadata, save_state, save_weights
from robustscape.training.log import EpochLog, TrainingLog, read_log, write_log
from robustscape.training.loop import Epoch, Step, fit, start
from robustscape.training.optimizers.adam import Adam
from robustscape.training.optimizers.adamw import AdamW
from robustscape.training.optimizers.entropy_sgd import EntropySGD
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.schedules.periodic import Periodic
from robustscape.training.schedules.rise import Rise
from robustscape.training.settings import Training
from robustscape.types import BadInput, Diverged, Images
from robustscape.weights.awp import AWP


def _images(n: int = 40) -> Images:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 2
    x = torch.randint(0, 100, (n, 1, 6, 6), generator=generator) + 120 * y[:, None, None, None]
    return Images(x=x.to(torch.uint8), y=y, index=torch.arange(n), classes=("dark", "light"), name="toy")


def _net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))


OBJECTIVE = AT(attack=PGD(threat=ThreatModel(eps=0.1), steps=2))
SETTINGS = Training(epochs=3, batch_size=16, optimizer=SGD(lr=0.05), track=20, ema=0.9)


def _fit(settings=SETTINGS, *, state=None, weights=None, tracked=None, seed=1):
    state = state or start(_net(), OBJECTIVE, settings)
    images = _images()
    if tracked is None:
        tracked = {"train": images, "validation": images.take(slice(0, 10)), "mine": images}
    loader = Loader(images=images, batch_size=settings.batch_size, seed=1)
    events = fit(
        state,
        loader,
        objective=OBJECTIVE,
        weights=weights,
        settings=settings,
        runtime=TRUTH,
        seed=seed,
        tracked=tracked,
    )
    return state, events


def test_end_to_end_a_separable_set_is_learnt_robustly():
    settings = replace(SETTINGS, epochs=8, ema=None)
    _, events = _fit(settings)
    last = [event for event in events if isinstance(event, Epoch)][-1].log
    assert last.tracked["train"].robust_accuracy == 1.0
    assert last.tracked["train"].robust_loss >= last.tracked["train"].clean_loss


def test_closed_form_what_is_logged():
    state, events = _fit()
    events = list(events)
    steps = [event for event in events if isinstance(event, Step)]
    epochs = [event.log for event in events if isinstance(event, Epoch)]
    assert [event.done for event in steps] == list(range(1, 10))
    assert [log.epoch for log in epochs] == [1, 2, 3]
    first = [event.log.loss["total"] for event in steps[:3]]
    assert epochs[0].loss["total"] == pytest.approx(sum(first) / 3)
    assert epochs[0].lr == pytest.approx(0.05) and epochs[-1].lr == pytest.approx(0.05 * 0.01)
    assert set(epochs[0].tracked) == {"train", "validation", "mine"}
    assert [epochs[0].tracked[name].n for name in ("train", "validation", "mine")] == [20, 10, 20]
    squares = sum(float(p.detach().double().square().sum()) for p in state.model.parameters())
    assert epochs[-1].weight_norm == pytest.approx(squares**0.5, rel=1e-5)
    moved = zip(state.model.parameters(), _net().parameters(), strict=True)
    assert epochs[-1].distance == pytest.approx(
        sum(float((a - b).detach().square().sum()) for a, b in moved) ** 0.5, rel=1e-4
    )


@pytest.mark.parametrize("optimizer", [SGD(lr=0.05), Adam(lr=0.01)])
@pytest.mark.parametrize("weights", [None, AWP()])
@pytest.mark.parametrize("stop", [1, 4, 9])
def test_end_to_end_stopped_anywhere_and_resumed_gives_the_same_bits(tmp_path, optimizer, weights, stop):
    settings = replace(SETTINGS, optimizer=optimizer)
    whole, events = _fit(settings, weights=weights)
    logs = [event.log for event in events if isinstance(event, Epoch)]
    part, events = _fit(settings, weights=weights)
    for event in events:
        if isinstance(event, Step) and event.done == stop:
            break
    save_state(part, tmp_path / "state.safetensors")
    resumed = start(_net(), OBJECTIVE, settings)
    load_state(resumed, tmp_path / "state.safetensors")
    _, events = _fit(settings, state=resumed, weights=weights)
    resumed_logs = [event.log for event in events if isinstance(event, Epoch)]
    assert digest(resumed.model) == digest(whole.model)
    assert digest(resumed.kept) == digest(whole.kept) != digest(whole.model)
    timeless = [replace(log, seconds=0, tracking_seconds=0, examples_per_second=0) for log in logs]
    resumed_timeless = [replace(log, seconds=0, tracking_seconds=0, examples_per_second=0) for log in resumed_logs]
    assert resumed_timeless == timeless[-len(resumed_timeless) :]


WAYS = {
    "adamw": dict(optimizer=AdamW(lr=0.01)),
    "entropy-sgd": dict(
        optimizer=EntropySGD(steps=2, weight_decay=0.01, momentum=0.5), clip_weights=0.4, clip_weights_of="weights"
    ),
    "entropy-sgd, the code": dict(optimizer=replace(EntropySGD.official(), steps=1), statistics="clean", ema=None),
    "swa": dict(ema=None, swa_start=1, swa_lr=0.05, l1=1e-4),
    "swa, cyclic": dict(ema=None, swa_start=1, swa_every=2, swa_lr=0.02, swa_lr_from=0.1, statistics="adversarial"),
    "pas": dict(lr=Periodic(resets=(1 / 3,)), eps=Periodic(of=Rise(), resets=(1 / 3,)), schedules="epoch", l2=1e-3),
    "clipped": dict(clip_gradient=0.1, statistics="clean", statistics_batches=1),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stop", [1, 3, "epoch 1", 6])
def test_end_to_end_every_way_of_stepping_resumes_to_the_same_bits(tmp_path, way, stop):
    settings = replace(SETTINGS, **WAYS[way], track=0)
    whole, events = _fit(settings, tracked={})
    assert sum(isinstance(event, Epoch) for event in events) == 3 and whole.done == 9
    part, events = _fit(settings, tracked={})
    for event in events:
        if isinstance(event, Epoch) if stop == "epoch 1" else isinstance(event, Step) and event.done >= stop:
            break
    save_state(part, tmp_path / "state.safetensors")
    resumed = start(_net(), OBJECTIVE, settings)
    load_state(resumed, tmp_path / "state.safetensors")
    assert sum(1 for _ in _fit(settings, state=resumed, tracked={})[1]) > 0
    assert digest(resumed.model) == digest(whole.model)
    assert digest(resumed.kept) == digest(whole.kept)


class Noisy(nn.Module):
    """Adds noise of torch's own in either mode, and keeps what it drew in train mode."""

    def __init__(self):
        super().__init__()
        self.drawn = []

    def forward(self, x):
        noise = torch.randn_like(x)
        if self.training:
            self.drawn.append(noise)
        return x + 0.1 * noise


@pytest.mark.parametrize("optimizer", [SGD(lr=0.05), EntropySGD(steps=2)])
def test_end_to_end_what_a_network_draws_follows_from_the_seed_and_leaves_no_trace(tmp_path, optimizer):
    settings = replace(SETTINGS, optimizer=optimizer, statistics="adversarial", attack_mode="train", clean_pass=True)

    def begin():
        return start(nn.Sequential(_net()[:4], Noisy(), nn.Dropout(0.3), _net()[4]), OBJECTIVE, settings)

    state = torch.get_rng_state()
    whole, events = _fit(settings, state=begin())
    logs = [event.log for event in events if isinstance(event, Epoch)]
    assert torch.equal(torch.get_rng_state(), state)
    drawn = [float(noise.flatten()[0]) for noise in whole.model[1].drawn[1:]]  # of the first, all is taken back
    assert len(drawn) > 9 * 3 and len(set(drawn)) == len(drawn), "every forward draws anew"
    torch.manual_seed(5)
    part, events = _fit(settings, state=begin())
    for event in events:
        if isinstance(event, Step) and event.done >= 4:
            break
    save_state(part, tmp_path / "state.safetensors")
    resumed = begin()
    load_state(resumed, tmp_path / "state.safetensors")
    last = [event.log for event in _fit(settings, state=resumed)[1] if isinstance(event, Epoch)][-1]
    assert digest(resumed.model) == digest(whole.model) and digest(resumed.kept) == digest(whole.kept)
    assert last.tracked == logs[-1].tracked
    other = begin()
    list(_fit(settings, state=other, seed=2)[1])
    assert not set(drawn) & {float(noise.flatten()[0]) for noise in other.model[1].drawn}


def test_closed_form_weights_are_averaged_from_an_epoch_on():
    settings = replace(SETTINGS, epochs=6, ema=None, swa_start=2, swa_every=2, track=0)
    state, events = _fit(settings, tracked={})
    ends = []
    for event in events:
        if isinstance(event, Epoch):
            ends.append([p.detach().clone() for p in state.model.parameters()])
            epoch = event.log.epoch
            taken = [ends[k - 1] for k in (2, 4, 6) if k <= epoch] or [ends[-1]]
            means = [torch.stack(values).mean(0) for values in zip(*taken, strict=True)]
            kept = list(state.kept.parameters())
            assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(kept, means, strict=True)), epoch
    assert digest(state.kept) != digest(state.model)


def test_closed_form_a_step_of_several_batches_ends_with_its_epoch():
    settings = replace(SETTINGS, optimizer=EntropySGD(steps=2), track=0)
    _, events = _fit(settings, tracked={})
    events = list(events)
    assert [event.done for event in events if isinstance(event, Step)] == [2, 3, 5, 6, 8, 9]
    logs = [event.log for event in events if isinstance(event, Epoch)]
    assert [log.step for log in logs] == [3, 6, 9]


@pytest.mark.parametrize("optimizer", [EntropySGD(steps=2), replace(EntropySGD.official(), steps=2)])
def test_end_to_end_entropy_sgd_learns_a_separable_set(optimizer):
    settings = replace(SETTINGS, epochs=12, ema=None, optimizer=optimizer, statistics="clean")
    _, events = _fit(settings)
    last = [event for event in events if isinstance(event, Epoch)][-1].log
    assert last.tracked["train"].robust_accuracy == 1.0


def test_contract_tracking_changes_nothing():
    with_tracking, events = _fit()
    list(events)
    without, events = _fit(tracked={})
    list(events)
    assert digest(with_tracking.model) == digest(without.model)


def test_contract_the_test_set_never_chooses():
    images = _images()
    choices = []
    for test in (images, images.take(torch.tensor([0, 1]))):
        _, events = _fit(tracked={"validation": images, "test": test})
        choices.append([event.log.selected for event in events if isinstance(event, Epoch)])
    assert choices[0] == choices[1]


def test_contract_without_tracking_the_last_epoch_is_the_best():
    _, events = _fit(replace(SETTINGS, track=0), tracked={})
    assert [event.log.selected for event in events if isinstance(event, Epoch)] == [True, True, True]


def test_closed_form_moving_average():
    net = nn.Linear(1, 1, bias=False)
    average = average_of(net)
    first = float(net.weight.detach())
    with torch.no_grad():
        net.weight.add_(1.0)
    update_average(average, net, 0.75)
    assert float(average.weight.detach()) == pytest.approx(0.75 * first + 0.25 * (first + 1), abs=1e-6)


def test_contract_nan_stops_with_epoch_and_step():
    images = _images()
    settings = replace(SETTINGS, optimizer=SGD(lr=1e30, momentum=0.0), ema=None, track=0)
    state = start(_net(), OBJECTIVE, settings)
    loader = Loader(images=images, batch_size=16, seed=1)
    with pytest.raises(Diverged, match=r"epoch 1, step [23]"):
        list(
            fit(
                state,
                loader,
                objective=OBJECTIVE,
                weights=None,
                settings=settings,
                runtime=TRUTH,
                seed=1,
                tracked={},
            )
        )


def test_contract_nan_while_tracking_names_the_epoch():
    state, events = _fit(replace(SETTINGS, ema=None))
    with pytest.raises(Diverged, match="after epoch 1, step 3"):
        for event in events:
            if event.done == 3:  # the epoch's last step: what comes next is tracking
                state.model[1].running_var.fill_(torch.nan)


def test_contract_a_checkpoint_loads_without_robustscape(tmp_path):
    net = _net()
    save_weights(net, tmp_path / "w.safetensors", {"architecture": {"a": 1}})
    other = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    other.load_state_dict(safetensors.torch.load_file(tmp_path / "w.safetensors"))
    assert digest(other) == digest(net)
    with safetensors.safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["robustscape"]) == {"architecture": {"a": 1}}


def test_contract_metadata_are_read_back_and_those_of_others_are_none(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(_net(), path, {"architecture": {"a": 1}})
    assert read_metadata(path) == {"architecture": {"a": 1}}
    for metadata in (None, {"format": "pt"}, {"robustscape": "[1]"}):
        safetensors.torch.save_file({"w": torch.ones(1)}, path, metadata=metadata)
        assert read_metadata(path) == {}
    safetensors.torch.save_file({"w": torch.ones(1)}, path, metadata={"robustscape": "{"})
    with pytest.raises(BadInput, match="not JSON"):
        read_metadata(path)
    path.write_bytes(b"no")
    with pytest.raises(BadInput, match="cut short"):
        read_metadata(path)


def test_contract_equal_weights_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        save_weights(_net(), tmp_path / name, {"b": 1, "a": [2]})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_contract_damaged_and_foreign_states_are_refused(tmp_path):
    state, _ = _fit()
    path = tmp_path / "state.safetensors"
    save_state(state, path)
    other = start(nn.Linear(2, 2), OBJECTIVE, SETTINGS)
    with pytest.raises(BadInput, match="another architecture"):
        load_state(other, path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(BadInput, match="cannot be read"):
        load_state(state, path)


def test_contract_the_log_survives_a_cut_last_line(tmp_path):
    _, events = _fit()
    log = TrainingLog(epochs=tuple(event.log for event in events if isinstance(event, Epoch)))
    path = tmp_path / "log.jsonl"
    write_log(path, log)
    assert read_log(path) == log
    path.write_text(path.read_text()[:-20])
    assert read_log(path).epochs == log.epochs[:-1]
    lines = path.read_text().splitlines()
    path.write_text("\n".join(["{broken", *lines]))
    with pytest.raises(BadInput, match="line 1"):
        read_log(path)
    assert isinstance(log.epochs[0], EpochLog)


@pytest.mark.parametrize(
    "wrong",
    [
        dict(epochs=0),
        dict(batch_size=0),
        dict(track=-1),
        dict(ema=1.0),
        dict(best_on_test=True, track_test=False),
        dict(attack_statistics="counted"),
    ],
)
def test_contract_settings_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(BadInput):
        Training(**wrong)
