"""Performance at several points of the weights in one pass: that of each point alone."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.judging import performance
from robustscape.evaluation.subject import subject
from robustscape.evaluation.together import performances, slots
from robustscape.runtime import TRUTH, Runtime
from robustscape.runtime.memory import Parts
from robustscape.streams import Streams
from robustscape.types import BadInput, Diverged
from robustscape.weights.space import gaussian, normalised, select, shifted

ATTACK = PGD(threat=ThreatModel(eps=0.1), steps=4, result="best_loss")


def looked_at(dtype=torch.float64, runtime=TRUTH):
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3)).to(dtype)
    x = torch.rand(7, 1, 4, 4, generator=generator, dtype=dtype)
    return subject(model, x, torch.arange(7) % 3, index=torch.arange(7) + 20, seed=5, runtime=runtime, batch=4)


def moves(made, count=3):
    weights = select(made.model, "layers")
    vs = [normalised(gaussian(weights, Streams(s)), weights, "layer") for s in range(count)]
    return [*vs[1:], {}], [("flatness", s) for s in range(count - 1)] + [("flatness",)]


def alone(made, vs, tags, attack=ATTACK):
    found = []
    for v, tag in zip(vs, tags, strict=True):
        with shifted(made.model, v) if v else nullcontext():
            found.append(performance(made, attack, *tag))
    return found


def trace(model):
    """All that a measurement must leave as it is."""
    tensors = {name: (p.tolist(), p.grad is None or p.grad.tolist()) for name, p in model.named_parameters()}
    return tensors, [module.training for module in model.modules()], torch.get_rng_state().tolist()


@pytest.mark.parametrize(
    ("dtype", "precision", "near"),
    [(torch.float64, "float32", 1e-12), (torch.float32, "float32", 1e-5), (torch.float32, "bfloat16", 1e-2)],
)
def test_closed_form_each_point_is_what_it_is_alone(dtype, precision, near):
    made = looked_at(dtype, Runtime(precision=precision))
    vs, tags = moves(made)
    made.model[1].weight.grad = torch.full_like(made.model[1].weight, 3.0)
    seen = trace(made.model)
    found = performances(made, ATTACK, vs, tags)
    assert trace(made.model) == seen
    for one, other in zip(found, alone(made, vs, tags), strict=True):
        assert vars(one) == pytest.approx(vars(other), rel=near)
        assert one.robust_loss > one.clean_loss
    assert len({one.clean_loss for one in found}) == 3


def test_contract_more_points_than_fit_are_taken_in_turns(monkeypatch):
    made = looked_at()
    vs, tags = moves(made, 5)
    whole = performances(made, ATTACK, vs, tags)
    monkeypatch.setattr("robustscape.runtime.together._PIXELS", 4 * 4 * 16)
    assert slots(made, 5) == 4
    for one, other in zip(performances(made, ATTACK, vs, tags), whole, strict=True):
        assert vars(one) == pytest.approx(vars(other), rel=1e-12)


def test_contract_an_attack_that_lets_examples_go_runs_on_each_alone():
    made = looked_at()
    attack = replace(ATTACK, steps=12, result="misclassified")
    vs, tags = moves(made)
    assert performances(made, attack, vs, tags) == alone(made, vs, tags, attack)


@dataclass(frozen=True)
class Small:
    """An attack that fails on more inputs than four."""

    words: str
    threat: ThreatModel = ATTACK.threat

    def __call__(self, model, x, y, *, rng=None):
        if len(x) > 4:
            raise RuntimeError(self.words)
        return ATTACK(model, x, y, rng=rng)


def test_contract_points_that_memory_does_not_hold_together_are_taken_alone():
    made = looked_at()
    vs, tags = moves(made)
    small = Small("DefaultCPUAllocator: can't allocate memory")
    assert performances(made, small, vs, tags) == alone(made, vs, tags, ATTACK)
    with pytest.raises(RuntimeError, match="something else"):
        performances(made, Small("something else"), vs, tags)


def test_contract_bad_perturbations_and_losses_are_refused():
    made = looked_at()
    seen = trace(made.model)
    with pytest.raises(BadInput, match="does not fit the model"):
        performances(made, ATTACK, [{"1.weight": torch.zeros(2, 2)}, {}], [(), ()])
    with pytest.raises(Diverged):
        performances(made, ATTACK, [{"1.bias": torch.full((6,), torch.inf)}, {}], [(), ()])
    assert trace(made.model) == seen


def test_contract_slots_are_for_what_is_suited_and_fits():
    made = looked_at()
    assert slots(made, 11) == 11
    assert slots(replace(made, parts=Parts(2)), 11) == 1
    assert slots(replace(made, runtime=Runtime(device="cpu", compile="yes")), 11) == 1
    assert slots(replace(made, model=nn.Sequential(nn.Conv2d(1, 3, 4), nn.Flatten())), 11) == 1
