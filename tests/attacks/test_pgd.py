"""PGD against closed forms and an independent rendering."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustscape.attacks.losses import CrossEntropy, Margin
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.streams import numbered
from robustscape.types import BadInput, Diverged


def _linear(classes: int = 2, dim: int = 6) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(dim, classes)).double()


def _data(n: int = 9, dim: int = 6):
    generator = torch.Generator().manual_seed(2)
    x = 0.3 + 0.4 * torch.rand(n, 1, 1, dim, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 2, (n,), generator=generator)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
@pytest.mark.parametrize("result", ["last", "best_loss"])
def test_closed_form_worst_case_of_a_linear_model(norm, dual, result):
    model, (x, y) = _linear(), _data()
    # Small enough that the box of pixels never binds.
    attack = PGD(threat=ThreatModel(norm=norm, eps=0.1), steps=60, step_size=0.02, result=result)
    x_adv = attack(model, x, y)
    w = (model[1].weight[1] - model[1].weight[0]).detach()
    sign = 2.0 * y - 1
    with torch.no_grad():
        clean, found = (sign * (z[:, 1] - z[:, 0]) for z in (model(x), model(x_adv)))
    assert torch.allclose(found, clean - 0.1 * torch.linalg.vector_norm(w, ord=dual), atol=2e-4)


def _naive(model, x, y, eps, step, steps, start):
    """PGD under linf as one reads it in the paper, one example and one step at a time."""
    out = []
    for i in range(len(x)):
        clean, here = x[i : i + 1], start[i : i + 1]
        for _ in range(steps):
            here = here.clone().requires_grad_()
            nn.functional.cross_entropy(model(here), y[i : i + 1]).backward()
            here = (here + step * here.grad.sign()).detach()
            here = clean + (here - clean).clamp(-eps, eps)
            here = here.clamp(0, 1)
        out.append(here)
    return torch.cat(out)


def test_reference_naive_rendering_float64():
    torch_state = torch.get_rng_state()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 4 * 4, 3)).double()
    x = torch.rand(5, 1, 6, 6, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0, 1])
    torch.set_rng_state(torch_state)
    rng = numbered(x, "naive")
    noise = rng.tag(0).tag("ball").uniform(1, 6, 6, low=-1, high=1, dtype=torch.float64)
    start = (x + 0.1 * noise).clamp(0, 1)
    attack = PGD(threat=ThreatModel(eps=0.1), steps=7, step_size=0.03)
    assert torch.allclose(attack(model, x, y, rng=rng), _naive(model, x, y, 0.1, 0.03, 7, start), atol=1e-12)


def test_closed_form_steps_follow_eps_or_do_not():
    relative = PGD(threat=ThreatModel(eps=0.4), relative_step=0.5)
    absolute = PGD(threat=ThreatModel(eps=0.4), step_size=0.01)
    assert (relative._step(), relative.at(0.2)._step()) == (0.2, 0.1)
    assert (absolute._step(), absolute.at(0.2)._step()) == (0.01, 0.01)


class _Bump(nn.Module):
    """Class 1 wins only for x in (0.55, 0.6): a long step lands there once and goes on past it."""

    def forward(self, x):
        v = x.flatten(1).sum(dim=1)
        inside = torch.sigmoid(400 * (v - 0.55)) * torch.sigmoid(400 * (0.6 - v))
        return torch.stack([1 - inside + 0 * v, inside + 1e-3 * v], dim=1)


def test_closed_form_misclassified_keeps_the_iterate_that_fooled():
    model, x, y = _Bump(), torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    common = dict(threat=ThreatModel(eps=0.3), steps=6, step_size=0.08, start="none")
    last = PGD(**common)(model, x, y)
    kept = PGD(**common, result="misclassified")(model, x, y)
    assert int(model(last).argmax()) == 0
    assert int(model(kept).argmax()) == 1


def test_contract_misclassified_does_not_depend_on_the_company():
    """An example that is fooled early must not go on changing until the last one of its batch is fooled."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        x = torch.rand(8, 1, 4, 4, dtype=torch.float64)
    y, rng = model(x).argmax(dim=1), numbered(x, "company")
    attack = PGD(threat=ThreatModel(eps=0.3), steps=10, result="misclassified")
    together = attack(model, x, y, rng=rng)
    assert bool((model(together).argmax(dim=1) != y).all())
    for k in range(8):
        alone = torch.full((8,), k)
        assert torch.equal(attack(model, x[alone], y[alone], rng=rng.of(alone))[0], together[k])


class _Sizes(nn.Module):
    """Fooled where the first pixel is large; notes the batches that it is given."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        first = x.flatten(1)[:, 0]
        return torch.stack([0 * first, first - 0.75], dim=1)


@pytest.mark.parametrize("steps", [1, 9])
def test_contract_misclassified_examples_leave_the_batch(steps):
    x = torch.full((16, 1, 2, 2), 0.1)
    x[:13] = 0.9
    y = torch.zeros(16, dtype=torch.int64)
    common = dict(threat=ThreatModel(eps=0.1), steps=steps, step_size=0.01, start="none", restarts=2)
    model = _Sizes()
    x_adv = PGD(**common, result="misclassified")(model, x, y)
    assert model.sizes == ([16, 4, 4, 4] if steps == 1 else [16, *[4] * 19])
    assert torch.equal(x_adv[:13], x[:13])  # misclassified as they are
    assert torch.allclose(x_adv[13:, 0, 0, 0], torch.tensor(0.1 + 0.01 * steps))
    model = _Sizes()
    PGD(**common, result="misclassified")(model, x[:13], y[:13])
    assert model.sizes == [13]


def test_contract_restarts_never_lower_the_loss():
    model, (x, y) = _linear(3), _data()
    for result in ("last", "best_loss"):
        one = PGD(threat=ThreatModel(eps=0.3), steps=2, result=result)
        five = PGD(threat=ThreatModel(eps=0.3), steps=2, result=result, restarts=5)
        with torch.no_grad():
            losses = [CrossEntropy()(model, a(model, x, y), y) for a in (one, five)]
        assert (losses[1] >= losses[0] - 1e-12).all()


def test_closed_form_margin_by_hand():
    logits = torch.tensor([[1.0, 4.0, 2.0], [5.0, 1.0, 0.0]])
    assert torch.equal(Margin()(nn.Identity(), logits, torch.tensor([0, 0])), torch.tensor([3.0, -4.0]))


def test_contract_bad_settings_are_refused():
    for wrong in (dict(steps=0), dict(restarts=0), dict(step_size=2), dict(step_size=0.0)):
        with pytest.raises(BadInput):
            PGD(**wrong)


def test_contract_half_precision_and_unequal_lengths_are_refused():
    model, (x, y) = _linear(), _data()
    with pytest.raises(BadInput, match="float32"):
        PGD()(model, x.half(), y)
    with pytest.raises(BadInput, match="9 inputs came with 3 labels"):
        PGD()(model, x, y[:3])


class _Nan(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :2] * torch.nan


def test_contract_a_model_that_gives_nan_is_an_error():
    with pytest.raises(Diverged, match="NaN"):
        PGD(steps=1)(_Nan(), torch.rand(2, 1, 2, 2), torch.tensor([0, 1]))


class _NanInTheEnd(nn.Module):
    """A linear model that gives NaN from its third call on."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x.flatten(1)[:, :2] * (torch.nan if self.calls > 2 else 1.0)


@pytest.mark.parametrize("result", ["best_loss", "misclassified"])
def test_contract_nan_at_the_last_iterate_is_an_error_too(result):
    with pytest.raises(Diverged, match="NaN"):
        PGD(steps=2, result=result)(_NanInTheEnd(), torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1]))
