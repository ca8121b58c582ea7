import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.threat import ThreatModel
from robustscape.landscape.curve import (
    CurveTraining,
    bernstein,
    estimated,
    placed,
    point,
    segment,
    speed,
    train_curve,
)
from robustscape.streams import Streams
from robustscape.training.schedules.constant import Constant
from robustscape.types import BadInput, Batch, Diverged


def network(seed=0):
    """Two layers with BatchNorm between them, float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2))
        return made.double().eval()


def state(model):
    return {
        n: t.detach().clone() for n, t in [*model.named_parameters(), *model.named_buffers()] if t.is_floating_point()
    }


def examples(n=10):
    g = torch.Generator().manual_seed(4)
    return Batch(x=torch.rand(n, 1, 4, 4, generator=g).double(), y=torch.arange(n) % 2, index=torch.arange(n))


def test_closed_form_points_and_speed_of_a_bezier_curve():
    g = torch.Generator().manual_seed(0)
    a, b, c, d = (torch.randn(5, generator=g, dtype=torch.float64) for _ in range(4))
    controls = [{"w": p} for p in (a, b, c, d)]
    for t in (0.0, 0.3, 1.0):
        assert sum(bernstein(3, t)) == pytest.approx(1, rel=1e-14)
        ab, bc, cd = ((1 - t) * p + t * q for p, q in ((a, b), (b, c), (c, d)))  # de Casteljau
        abc, bcd = (1 - t) * ab + t * bc, (1 - t) * bc + t * cd
        torch.testing.assert_close(point(controls, t)["w"], (1 - t) * abc + t * bcd, rtol=1e-13, atol=1e-13)
        assert speed(controls, [t], ["w"]) == pytest.approx([float((bcd - abc).norm()) * 3], rel=1e-12)
    assert torch.equal(point(controls, 0.0)["w"], a) and torch.equal(point(controls, 1.0)["w"], d)
    line = segment(controls[0], controls[3], 4)
    torch.testing.assert_close(point(line, 0.3)["w"], 0.7 * a + 0.3 * d)
    assert speed(line, [0.1, 0.8], ["w"]) == pytest.approx([float((d - a).norm())] * 2, rel=1e-12)


def test_contract_a_network_is_placed_exactly_and_taken_back():
    model, other = network(0), network(1)
    before = state(model)
    with placed(model, state(other)):
        assert all(torch.equal(model.state_dict()[n], t) for n, t in state(other).items())
    assert all(torch.equal(model.state_dict()[n], t) for n, t in before.items())


@pytest.mark.parametrize(("n", "size"), [(8, 8), (10, 4), (9, 3)])
def test_reference_statistics_are_means_over_batches_of_near_equal_size(n, size):
    model, x = network(), examples(n).x
    parts = x.tensor_split(-(-n // size))
    with torch.no_grad():
        hidden = [model[0](part) for part in parts]
    mean = sum(len(h) * h.mean((0, 2, 3)) for h in hidden) / n
    variance = sum(len(h) * h.var((0, 2, 3)) for h in hidden) / n
    found = estimated(model, state(model), x, size)
    torch.testing.assert_close(found["1.running_mean"], mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found["1.running_var"], variance, rtol=1e-12, atol=1e-12)
    assert found["0.weight"].equal(model[0].weight) and list(found) == list(state(model))
    assert model[1].momentum == 0.1 and not model[1].training and model[1].num_batches_tracked == 0
    assert torch.equal(model[1].running_mean, torch.zeros(3).double())


@pytest.mark.parametrize("statistics", ["interpolate", "re_estimate"])
def test_reference_one_step_is_that_of_autograd_through_the_curve(statistics):
    model, some = network(), examples(6)
    controls = segment(state(network(1)), state(network(2)), 3)
    settings = CurveTraining(epochs=1, batch_size=6, lr=0.3, schedule=Constant(), momentum=0.0, l2=0.01)
    rng = Streams(0, ("step",))
    found = train_curve(model, controls, some, settings=settings, attack=None, statistics=statistics, rng=rng)

    t = float(rng.tag("t", 0).uniform())
    names = [n for n, _ in model.named_parameters()]
    inner = [{n: c[n].clone().requires_grad_() for n in names} for c in controls[1:3]]
    weights = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3]
    every = [controls[0], *inner, controls[3]]
    here = {n: sum(w * c[n] for w, c in zip(weights, every, strict=True)) for n in names}
    if statistics == "interpolate":
        here |= {n: (1 - t) * controls[0][n] + t * controls[3][n] for n in controls[0] if n not in names}
        logits = functional_call(model, here, (some.x,))
    else:  # by the batch's own statistics, written out
        h = F.conv2d(some.x, here["0.weight"], here["0.bias"])
        h = F.batch_norm(h, None, None, here["1.weight"], here["1.bias"], training=True)
        logits = F.linear(h.tanh().flatten(1), here["4.weight"], here["4.bias"])
    loss = F.cross_entropy(logits, some.y) + 0.005 * sum(here[n].square().sum() for n in names)
    loss.backward()
    for before, after in zip(inner, found[1:3], strict=True):
        for n in names:
            torch.testing.assert_close(after[n], before[n].detach() - 0.3 * before[n].grad, rtol=1e-9, atol=1e-9)
    assert all(torch.equal(found[end][n], controls[end][n]) for end in (0, 3) for n in names)


def test_contract_training_leaves_no_trace_and_does_not_touch_the_ends():
    model, some = network(), examples()
    start, end = state(network(1)), state(network(2))
    kept, own = {n: t.clone() for n, t in start.items()}, state(model)
    model[0].weight.requires_grad_(False)
    settings = CurveTraining(epochs=2, batch_size=4)
    attack = FGSM(threat=ThreatModel(eps=0.1))
    arguments = {"settings": settings, "attack": attack, "statistics": "re_estimate", "rng": Streams(0)}
    first, second = (train_curve(model, segment(start, end, 2), some, **arguments) for _ in range(2))
    assert all(torch.equal(start[n], t) for n, t in kept.items())
    assert all(torch.equal(model.state_dict()[n], t) for n, t in own.items()) and not model.training
    assert not model[0].weight.requires_grad and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(first[1][n], second[1][n]) and not first[1][n].requires_grad for n in start)
    assert not torch.equal(first[1]["0.weight"], segment(start, end, 2)[1]["0.weight"])


def test_contract_settings_that_cannot_be_meant_and_overflows_are_refused():
    for wrong in ({"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"lr": math.inf}, {"momentum": 1.0}, {"l2": -1.0}):
        with pytest.raises(BadInput, match=next(iter(wrong))):
            CurveTraining(**wrong)
    start = state(network(1)) | {"4.bias": torch.full((2,), torch.nan).double()}
    with pytest.raises(Diverged, match="step 0"):
        train_curve(
            network(),
            segment(start, state(network(2)), 2),
            examples(),
            settings=CurveTraining(epochs=1),
            attack=None,
            statistics="interpolate",
            rng=Streams(0),
        )
