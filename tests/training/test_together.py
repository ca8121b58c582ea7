"""Several trainings as one: each network becomes what it becomes alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.data.batches import Loader
from robustscape.data.targets import Targets
from robustscape.objectives.at import AT
from robustscape.objectives.natural import Natural
from robustscape.runtime import TRUTH
from robustscape.streams import Streams
from robustscape.training.checkpoints import digest, load_state, save_state
from robustscape.training.loop import Epoch, Step, fit, start
from robustscape.training.optimizers.adam import Adam
from robustscape.training.optimizers.entropy_sgd import EntropySGD
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.schedules.linear import Linear as LinearSchedule
from robustscape.training.settings import Training
from robustscape.training.together import fit_together, fits_together
from robustscape.types import BadInput, Diverged, Images
from robustscape.weights.awp import AWP

SEEDS = (3, 1, 4)
ATTACK = PGD(threat=ThreatModel(eps=0.1), steps=3)
SETTINGS = Training(epochs=2, batch_size=16, optimizer=SGD(lr=0.05), eps=LinearSchedule(), track=0)
RUNTIME = replace(TRUTH, compile="no", threads=1)


class Doubled:
    """A loader whose images are float64."""

    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return len(self.loader)

    def epoch(self, number, start=0):
        return (replace(batch, x=batch.x.double()) for batch in self.loader.epoch(number, start))


def _images(n=40):
    x = torch.randint(0, 256, (n, 1, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Images(x=x, y=torch.arange(n) % 2, index=torch.arange(n), classes=("a", "b"), name="toy")


def _net(seed, dtype):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Flatten(), nn.Linear(36, 5), nn.SiLU(), nn.Dropout(0.1), nn.Linear(5, 2)]
        return nn.Sequential(*layers).to(dtype)


def _given(dtype, settings, objective, weights):
    states = [start(_net(seed, dtype), objective, settings) for seed in SEEDS]
    loaders = [Loader(images=_images(), batch_size=settings.batch_size, seed=seed) for seed in SEEDS]
    loaders = loaders if dtype == torch.float32 else [Doubled(loader) for loader in loaders]
    return states, loaders, {"objective": objective, "weights": weights, "settings": settings, "runtime": RUNTIME}


def _together(dtype=torch.float64, settings=SETTINGS, *, objective=None, weights=None, tracked=None, states=None):
    made, loaders, how = _given(dtype, settings, objective or AT(attack=ATTACK), weights)
    states, sets = states or made, [tracked or {}] * len(SEEDS)
    return states, fit_together(states, loaders, seeds=SEEDS, tracked=sets, **how)


def _alone(dtype=torch.float64, settings=SETTINGS, *, objective=None, weights=None, tracked=None):
    states, loaders, how = _given(dtype, settings, objective or AT(attack=ATTACK), weights)
    events = [
        list(fit(state, loader, seed=seed, tracked=tracked or {}, **how))
        for state, loader, seed in zip(states, loaders, SEEDS, strict=True)
    ]
    return states, events


@dataclass(frozen=True)
class Mixing:
    """A loader whose images are float64, and mixed."""

    loader: Loader

    def __len__(self):
        return len(self.loader)

    def epoch(self, number, start=0):
        for batch in Doubled(self.loader).epoch(number, start):
            yield Targets(mixup=1.0)(batch, Streams(0, ("targets", number), batch.index), classes=2)


def _furthest(states, others):
    return max(
        float((a - b).detach().abs().max())
        for one, other in zip(states, others, strict=True)
        for a, b in zip(one.kept.parameters(), other.kept.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("settings", "weights", "attack"),
    [
        (SETTINGS, None, ATTACK),
        (replace(SETTINGS, optimizer=Adam(lr=0.01), ema=0.9), AWP(), ATTACK),
        (SETTINGS, None, replace(ATTACK, result="best_loss", restarts=2)),
        (SETTINGS, None, replace(ATTACK, steps=6, result="misclassified")),  # examples leave: made one by one
    ],
)
def test_closed_form_each_network_becomes_what_it_becomes_alone(settings, weights, attack):
    how = {"settings": settings, "weights": weights, "objective": AT(attack=attack)}
    states, events = _together(**how)
    events = list(events)
    others, apart = _alone(**how)
    assert _furthest(states, others) < 1e-12
    for number, expected in enumerate(apart):
        mine = [event for s, event in events if s == number]
        assert [type(event) for event in mine] == [type(event) for event in expected]
        for event, other in zip(mine, expected, strict=True):
            if isinstance(event, Step):
                assert (event.epoch, event.done, event.total) == (other.epoch, other.done, other.total)
                assert (event.log.lr, event.log.eps) == (other.log.lr, other.log.eps)
                assert event.log.loss == pytest.approx(other.log.loss, rel=1e-12)
    moved = _furthest(states, [start(_net(seed, torch.float64), AT(attack=attack), settings) for seed in SEEDS])
    assert moved > 1e-3


def test_closed_form_mixed_images_are_attacked_as_each_alone_attacks_them():
    objective = AT(attack=ATTACK)
    together, loaders, how = _given(torch.float64, SETTINGS, objective, None)
    loaders = [Mixing(loader.loader) for loader in loaders]
    list(fit_together(together, loaders, seeds=SEEDS, tracked=[{}] * len(SEEDS), **how))
    alone, _, how = _given(torch.float64, SETTINGS, objective, None)
    for state, loader, seed in zip(alone, loaders, SEEDS, strict=True):
        list(fit(state, loader, seed=seed, tracked={}, **how))
    assert _furthest(together, alone) < 1e-12


def test_contract_float32_is_close_and_the_epochs_lines_are_the_same():
    tracked = {"validation": _images(20)}
    settings = replace(SETTINGS, track=20)
    states, events = _together(torch.float32, settings, tracked=tracked)
    lines = [(s, event.log) for s, event in events if isinstance(event, Epoch)]
    others, apart = _alone(torch.float32, settings, tracked=tracked)
    assert _furthest(states, others) < 1e-5
    for number, expected in enumerate(apart):
        mine = [line for s, line in lines if s == number]
        theirs = [event.log for event in expected if isinstance(event, Epoch)]
        assert [line.epoch for line in mine] == [1, 2]
        for line, other in zip(mine, theirs, strict=True):
            assert line.loss == pytest.approx(other.loss, rel=1e-4)
            assert line.tracked["validation"].robust_accuracy == other.tracked["validation"].robust_accuracy
            assert line.seconds > 0


@pytest.mark.parametrize("stop", [1, 5, 10])
def test_end_to_end_stopped_anywhere_and_resumed_gives_the_same_bits(tmp_path, stop):
    whole, events = _together(torch.float32, weights=AWP())
    list(events)
    part, events = _together(torch.float32, weights=AWP())
    for _, (number, event) in zip(range(stop), events, strict=False):
        if isinstance(event, Step) and number != 1:  # the second falls behind, to where it began
            save_state(part[number], tmp_path / str(number))
    resumed, _ = _together(torch.float32)
    for number, state in enumerate(resumed):
        if (tmp_path / str(number)).exists():
            load_state(state, tmp_path / str(number))
    assert len({state.done for state in resumed}) > 1
    states, events = _together(torch.float32, weights=AWP(), states=resumed)
    list(events)
    assert [digest(state.model) for state in states] == [digest(state.model) for state in whole]


def test_contract_without_attack_each_goes_its_own_way():
    states, events = _together(objective=Natural())
    list(events)
    others, _ = _alone(objective=Natural())
    assert _furthest(states, others) == 0


@dataclass(frozen=True)
class Small:
    """An attack that fails on more inputs than a batch has."""

    words: str
    inner: PGD = ATTACK

    @property
    def threat(self):
        return self.inner.threat

    def at(self, eps):
        return replace(self, inner=self.inner.at(eps))

    def __call__(self, model, x, y, *, rng=None):
        if len(x) > SETTINGS.batch_size:
            raise RuntimeError(self.words)
        return self.inner(model, x, y, rng=rng)


def test_contract_what_memory_does_not_hold_together_is_attacked_alone():
    states, events = _together(objective=AT(attack=Small("DefaultCPUAllocator: can't allocate memory")))
    list(events)
    others, _ = _alone()
    assert _furthest(states, others) == 0
    with pytest.raises(RuntimeError, match="something else"):
        list(_together(objective=AT(attack=Small("something else")))[1])


def test_contract_what_diverges_is_named_by_its_seed():
    states, events = _together()
    with torch.no_grad():
        states[1].model[1].weight[0, 0] = torch.nan
    with pytest.raises(Diverged, match=f"seed {SEEDS[1]}: training stopped in epoch 1, step 1"):
        list(events)


def test_contract_what_cannot_be_trained_together_is_refused():
    states, loaders, how = _given(torch.float32, SETTINGS, AT(attack=ATTACK), None)
    others = {"seeds": SEEDS, "tracked": [{}] * 3}
    batch = next(loaders[0].epoch(0))
    models = [state.model for state in states]
    ask = {"objective": how["objective"], "runtime": RUNTIME}
    assert fits_together(models, batch, settings=SETTINGS, **ask)
    assert not fits_together(models[:1], batch, settings=SETTINGS, **ask)
    train = replace(SETTINGS, attack_mode="train")
    assert not fits_together(models, batch, settings=train, **ask)
    with pytest.raises(BadInput, match="train mode"):
        next(fit_together(states, loaders, **(how | {"settings": train}), **others))
    several = replace(SETTINGS, optimizer=EntropySGD(steps=2))
    assert not fits_together(models, batch, settings=several, **ask)
    with pytest.raises(BadInput, match="one network by one"):
        next(fit_together(states, loaders, **(how | {"settings": several}), **others))
    with pytest.raises(BadInput, match="equally long"):
        short = Loader(images=_images(16), batch_size=16, seed=0)
        next(fit_together(states, [*loaders[:2], short], **how, **others))
    states[0] = start(nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), how["objective"], SETTINGS)
    with pytest.raises(BadInput, match="nothing but their weights"):
        next(fit_together(states, loaders, **how, **others))
