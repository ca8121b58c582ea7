"""SPSA against closed forms, a naive rendering and itself in other company."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustscape.attacks.queue import queued
from robustscape.attacks.spsa import SPSA, _directions
from robustscape.attacks.threat import ThreatModel
from robustscape.attacks.walk import Rows, Walk
from robustscape.streams import Streams, numbered
from robustscape.types import BadInput, Diverged

IMAGE = (2, 4, 5)


def _network(kind: str = "dense", classes: int = 3, image=IMAGE) -> nn.Module:
    size = image[0] * image[1] * image[2]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if kind == "linear":
            return nn.Sequential(nn.Flatten(), nn.Linear(size, classes)).double()
        return nn.Sequential(nn.Flatten(), nn.Linear(size, 16), nn.Tanh(), nn.Linear(16, classes)).double()


def _images(model: nn.Module, n: int = 8, image=IMAGE):
    x = torch.rand(n, *image, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        return x, model(x).argmax(dim=1)


def _rows(model, x, y, eps: float) -> Rows:
    return Rows(x=x, y=y, eps=torch.full((len(x),), eps, dtype=x.dtype), index=torch.arange(len(x)), logits=model(x),
                round=torch.zeros_like(y))  # fmt: skip


def _margin(model, x, y):
    """By how much the right logit is ahead."""
    with torch.no_grad():
        logits = model(x)
    return logits.gather(1, y[:, None])[:, 0] - logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)


# -- the estimate ------------------------------------------------------------------------------------------


def test_closed_form_the_estimate_is_the_gradient_of_a_linear_model_within_its_error():
    """(w.v) v has mean w and, for entry i, variance ||w||^2 - w_i^2; n directions divide it by n."""
    model, samples = _network("linear", classes=2), 400
    x, y = _images(model, 60)
    attack, rng = SPSA(samples=samples, chunk=4000), Streams(0, ("mean",))
    found = attack.estimate(model, attack.begin(_rows(model, x, y, 0.1), rng), rng).flatten(1)
    w = model[1].weight.detach()
    w = w[1 - y] - w[y]
    error = (found - w) / ((w.pow(2).sum(dim=1, keepdim=True) - w**2) / samples).sqrt()
    # 2,400 errors that are standard normal but for their tails: the mean of so many, their spread, the largest.
    assert abs(float(error.mean())) < 4 / 2400**0.5
    assert float(error.std()) == pytest.approx(1, abs=0.08)
    assert float(error.abs().max()) < 5
    targeted = SPSA(samples=samples, chunk=4000, targeted=True)
    torch.testing.assert_close(targeted.estimate(model, attack.begin(_rows(model, x, 1 - y, 0.1), rng), rng).flatten(1),
                               found)  # fmt: skip


@pytest.mark.parametrize("chunk", [1, 7, 30, 1000])
def test_contract_the_estimate_depends_on_neither_chunks_nor_company(chunk):
    model = _network()
    x, y = _images(model)
    rng, rows = Streams(0, ("chunks",)), _rows(model, x, y, 0.1)
    whole = SPSA(samples=10, chunk=256)
    found = whole.estimate(model, whole.begin(rows, rng), rng)
    attack, part = SPSA(samples=10, chunk=chunk), rows.take(torch.tensor([6, 1, 3]))
    again = attack.estimate(model, attack.begin(part, rng), rng)
    torch.testing.assert_close(again, found[[6, 1, 3]], rtol=0, atol=1e-9)  # differences of logits over 0.001
    assert float((found[0] - found[1]).abs().max()) > 1e-3


def test_contract_directions_are_signs_and_images_have_their_own():
    x = torch.zeros(40, 100)
    v = _directions(numbered(x, "signs"), range(5, 30), 100, x)
    assert v.shape == (40, 25, 100) and set(v.flatten().tolist()) == {-1, 1}
    again = _directions(numbered(x, "signs").of(torch.tensor([7, 2])), range(9, 11), 100, x)
    assert torch.equal(again, v[[7, 2], 4:6])
    products = v.flatten(0, 1) @ v.flatten(0, 1).T / 100  # of 1,000 directions: apart, they are normal, spread 0.1
    products.fill_diagonal_(0)
    assert float(products.abs().max()) < 0.7
    assert float(products.std()) == pytest.approx(0.1, rel=0.05)


# -- the search --------------------------------------------------------------------------------------------


def _naive(attack: SPSA, model, x, y, v):
    """One example, number by number as Adam's paper has it: the iterates, from directions (steps, samples, ...)."""
    delta, mean, square = (torch.zeros_like(x) for _ in range(3))
    for t, directions in enumerate(v, start=1):
        slope = torch.zeros_like(x)
        for one in directions:
            above, below = (float(_margin(model, x + delta + way * attack.delta * one, y)) for way in (1, -1))
            slope += (above - below) / (2 * attack.delta) * one / attack.samples
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope * slope
        delta = delta - attack.lr * (mean / (1 - 0.9**t)) / ((square / (1 - 0.999**t)).sqrt() + 1e-8)
        delta = (x + delta.clamp(-attack.threat.eps, attack.threat.eps)).clamp(0, 1) - x
        yield x + delta


def test_reference_a_naive_rendering():
    model = _network("linear")
    model[1].bias.data[0] += 20  # nothing succeeds: the search goes on to its end
    x, y = _images(model, 3)
    attack, rng = SPSA(threat=ThreatModel(eps=0.03), steps=6, samples=4, chunk=5), numbered(x, "naive")
    x_adv = attack(model, x, y, rng=rng)
    for k in range(3):
        start = rng.of(torch.tensor([k])).then(torch.tensor([0])).index
        v = [_directions(rng.of(start + step).tag("direction"), range(4), 40, x)[0].view(4, 1, *IMAGE)
             for step in range(6)]  # fmt: skip
        iterates = list(_naive(attack, model, x[k : k + 1], y[k : k + 1], v))
        nearest = min(iterates, key=lambda one, k=k: float(_margin(model, one, y[k : k + 1])))
        torch.testing.assert_close(x_adv[k : k + 1], nearest, rtol=0, atol=1e-9)


def test_closed_form_nears_the_exact_adversary_of_two_classes_and_never_passes_it():
    model = _network("linear", classes=2)
    model[1].bias.data = torch.tensor([30.0, 0.0], dtype=torch.float64)
    x = 0.2 + 0.6 * _images(model)[0]
    y = torch.zeros(8, dtype=torch.int64)
    w = (model[1].weight[0] - model[1].weight[1]).detach()
    for norm, dual in (("linf", 1), ("l2", 2)):
        attack = SPSA(threat=ThreatModel(norm=norm, eps=0.05), steps=30, samples=64)
        x_adv = attack(model, x, y)
        share = (_margin(model, x, y) - _margin(model, x_adv, y)) / (0.05 * torch.linalg.vector_norm(w, ord=dual))
        assert float(share.max()) <= 1 + 1e-9
        assert float(share.min()) > 0.9


def test_contract_what_an_example_gets_does_not_depend_on_its_company():
    model = _network()
    x, y = _images(model)
    attack = SPSA(threat=ThreatModel(eps=0.1), steps=6, samples=8, restarts=2)
    rng, found, steps = Streams(5, ("company",)), x.clone(), {}
    for part in queued(attack, model, _rows(model, x, y, 0.1), rng, width=3):
        found[part.rows] = part.x_adv
        steps |= dict(zip(part.rows.tolist(), part.steps.tolist(), strict=True))
    alone = torch.cat([attack(model, x[[k]], y[[k]], rng=rng.of(torch.tensor([k]))) for k in range(8)])
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-8)
    assert max(steps.values()) == 12 and min(steps.values()) < 6


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_contract_a_radius_for_each_example_is_as_that_radius_alone(norm):
    model = _network()
    x, y = _images(model, 4)
    eps = torch.tensor([0.0, 0.02, 0.3, 0.08], dtype=torch.float64)
    attack, rng = SPSA(threat=ThreatModel(norm=norm), steps=4, samples=6), numbered(x, "radii")
    together = attack(model, x, y, rng=rng, eps=eps)
    for k in range(4):
        alone = attack.at(float(eps[k]))(model, x[[k]], y[[k]], rng=rng.of(torch.tensor([k])))
        torch.testing.assert_close(together[[k]], alone, rtol=0, atol=1e-8)
    assert torch.equal(together[0], x[0])
    order = torch.inf if norm == "linf" else 2
    assert bool((torch.linalg.vector_norm((together - x).flatten(1), ord=order, dim=1) <= eps + 1e-12).all())
    assert float(together.min()) >= 0 and float(together.max()) <= 1


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("image", [(1, 6, 3), (3, 4, 4)])
def test_contract_targeted_search_ends_at_the_wanted_class(classes, image):
    model = _network("dense", classes, image)
    x, _ = _images(model, 10, image)
    wanted = model(x).topk(2, dim=1).indices[:, 1]
    x_adv = SPSA(threat=ThreatModel(eps=0.2), steps=25, samples=16, lr=0.02, targeted=True)(model, x, wanted)
    there = model(x_adv).argmax(dim=1) == wanted
    assert int(there.sum()) > 2
    assert bool((_margin(model, x_adv, wanted) > _margin(model, x, wanted)).all())


def test_contract_forwards_are_as_documented():
    asked = []

    class Counted(nn.Module):
        def forward(self, x):
            asked.append(len(x))
            return torch.tensor([[1.0, 0.0]]).repeat(len(x), 1)

    x, y = torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64)
    SPSA(steps=2, samples=5, chunk=6)(Counted(), x, y)
    assert asked == [3, *2 * [6, 6, 6, 6, 3, 3, 3]]
    asked.clear()
    SPSA(steps=9, samples=1).at(0.0)(Counted(), x, y)
    assert asked == [3, 3, 3, 3]


# -- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"samples": 0}, "samples must be"),
        ({"chunk": 0}, "chunk must be"),
        ({"restarts": 0}, "restarts must be"),
        ({"delta": 0.0}, r"delta is in pixel units, in \(0, 1\]"),
        ({"lr": 2.0}, "did you mean 2/255?"),
        ({"threat": ThreatModel(norm="l1", eps=12.0)}, "not l1"),
    ],
)
def test_contract_refuses_what_cannot_be_meant(settings, words):
    with pytest.raises(BadInput, match=words):
        SPSA(**settings)


def test_contract_says_what_it_is():
    assert isinstance(SPSA(), Walk)
    assert SPSA().describe() == "SPSA-100 (linf 8/255, 256 samples, 1 restart)"
    other = SPSA(threat=ThreatModel(norm="l2", eps=0.5), steps=3, restarts=2, targeted=True)
    assert other.describe() == "SPSA-3 (l2 0.5, 256 samples, 2 restarts, targeted)"
    model = _network()
    with pytest.raises(BadInput, match="no reference mode"):
        SPSA().begin(_rows(model, *_images(model), 0.1), torch.Generator())


def test_contract_a_model_that_gives_nan_is_an_error():
    class Broken(nn.Module):
        def forward(self, x):
            clean = torch.tensor([[1.0, 0.0]]).repeat(len(x), 1)
            return clean if float(x.min()) == 0.5 == float(x.max()) else clean * torch.nan

    with pytest.raises(Diverged, match="NaN under attack"):
        SPSA(steps=2, samples=2)(Broken(), torch.full((2, 1, 3, 3), 0.5), torch.zeros(2, dtype=torch.int64))
