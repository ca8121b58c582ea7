"""PGD against closed forms and an independent rendering."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from robustscape.attacks.losses import KL, CrossEntropy, Margin
from robustscape.attacks.pgd import PGD
from robustscape.attacks.queue import attacked, queued
from robustscape.attacks.threat import ThreatModel
from robustscape.attacks.walk import Rows
from robustscape.streams import Streams, numbered
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


@pytest.mark.parametrize("changes", [{"relative_step": 0.25}, {"step_size": 0.02}, {"step_size": 0.3}], ids=str)
def test_reference_a_start_within_a_step_is_that_of_the_code_of_liu(changes):
    """Noise as large as a step, cut off at eps and at the box; then steps of the sign."""
    model, (x, y) = _linear(), _data()
    attack, rng = PGD(threat=ThreatModel(eps=0.1), steps=2, start="step", **changes), numbered(x, "liu")
    size = changes.get("step_size", 0.25 * 0.1)
    here = x + rng.tag(0, "ball").uniform(*x.shape[1:], low=-size, high=size, dtype=x.dtype)
    here = (x + (here - x).clamp(-0.1, 0.1)).clamp(0, 1)
    for _ in range(2):
        here = here.detach().requires_grad_()
        (slope,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(here), y, reduction="sum"), here)
        here = (x + (here + size * slope.sign() - x).clamp(-0.1, 0.1)).clamp(0, 1)
    torch.testing.assert_close(attack(model, x, y, rng=rng), here.detach(), rtol=0, atol=1e-12)


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


# -- a radius for each example, wanted classes ---------------------------------------------------------------


def _convolutional(classes: int = 3, channels: int = 1) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers = [nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4 * 5, classes)]
        model = nn.Sequential(*layers).double()
    with torch.no_grad():
        model[3].bias -= model(_images(channels=channels)).mean(dim=0)  # so that not all images are of one class
    return model


def _images(n: int = 12, channels: int = 1):
    return torch.rand(n, channels, 6, 7, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("changes", [{}, {"step_size": 0.02}, {"start": "gaussian"}, {"start": "step"},
                                     {"start": "step", "step_size": 0.1}, {"result": "misclassified"}],
                         ids=str)  # fmt: skip
def test_contract_each_example_is_searched_within_its_own_radius(norm, changes):
    model, x = _convolutional(), _images()
    y, rng = model(x).argmax(dim=1), numbered(x, "radii")
    eps = torch.linspace(0, 0.3, len(x), dtype=torch.float64)
    attack = PGD(threat=ThreatModel(norm=norm, eps=0.2), steps=5, restarts=2, **changes)
    x_adv = attack(model, x, y, rng=rng, eps=eps)
    assert torch.equal(x_adv[0], x[0])
    for k, radius in enumerate(eps.tolist()):
        one = torch.tensor([k])
        alone = attack.at(radius)(model, x[one], y[one], rng=rng.of(one))
        assert torch.allclose(x_adv[k], alone[0], atol=1e-12)


def test_closed_form_to_reach_one_of_two_classes_is_to_leave_the_other():
    model, (x, y) = _linear(), _data()
    for result in ("last", "best_loss", "misclassified"):
        attack = PGD(threat=ThreatModel(eps=0.1), steps=4, result=result)
        aimed = PGD(threat=ThreatModel(eps=0.1), steps=4, result=result, targeted=True)
        assert torch.equal(aimed(model, x, 1 - y), attack(model, x, y))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_closed_form_a_targeted_attack_on_the_margin_reaches_the_class_where_a_linear_model_lets_it(norm):
    """With three classes alone: PGD of the margin then follows a concave function to its largest value."""
    model, (x, _) = _linear(3), _data(30)
    wanted, eps = torch.arange(30) % 3, 0.15
    threat = ThreatModel(norm=norm, eps=eps)
    attack = PGD(threat=threat, steps=400, step_size=0.003, loss=Margin(), targeted=True, result="misclassified")
    with torch.no_grad():
        reached = model(attack(model, x, wanted)).argmax(dim=1) == wanted
        w, bias = model[1].weight, model[1].bias
        certain, possible = [], []
        for k, t in enumerate(wanted.tolist()):
            others = [j for j in range(3) if j != t]
            gains = torch.stack([w[t] - w[j] for j in others])
            ahead = gains @ x[k].flatten() + torch.stack([bias[t] - bias[j] for j in others])
            # The most that the smaller lead can be: over the mixtures of the two, the least upper bound.
            share = torch.linspace(0, 1, 1001, dtype=torch.float64)[:, None]
            mixed = share * gains[0] + (1 - share) * gains[1]
            length = mixed.abs().sum(dim=1) if norm == "linf" else mixed.norm(dim=1)
            best = float((share[:, 0] * ahead[0] + (1 - share[:, 0]) * ahead[1] + eps * length).min())
            certain.append(best > 0.01)
            possible.append(best > -1e-6)
    certain, possible = torch.tensor(certain), torch.tensor(possible)
    assert 3 < int(certain.sum()) < 27
    assert bool((reached | ~certain).all()) and bool((possible | ~reached).all())


def test_contract_radii_and_losses_that_make_no_sense_are_refused():
    model, (x, y) = _linear(), _data()
    with pytest.raises(BadInput, match="9 examples need one radius each"):
        PGD()(model, x, y, eps=torch.rand(8))
    with pytest.raises(BadInput, match="at least 0"):
        PGD()(model, x, y, eps=torch.full((9,), -0.1))
    with pytest.raises(BadInput, match="KL does not look at y; did you mean CrossEntropy"):
        PGD(loss=KL(), targeted=True)
    assert PGD(targeted=True).describe().startswith("targeted PGD-10 (linf 8/255, step 2/255")


# -- in steps ------------------------------------------------------------------------------------------------


def _rows(model, x, y, eps):
    with torch.no_grad():
        logits = model(x)
    zero = torch.zeros_like(y)
    return Rows(x=x, y=y, eps=torch.full_like(x[:, 0, 0, 0], eps), index=torch.arange(len(x)), logits=logits,
                round=zero)  # fmt: skip


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("targeted", [False, True])
def test_contract_step_by_step_it_finds_what_the_loop_finds(norm, channels, targeted):
    model, x = _convolutional(channels=channels), _images(channels=channels)
    clean = model(x).argmax(dim=1)
    y = (clean + 1) % 3 if targeted else clean
    threat = ThreatModel(norm=norm, eps=0.04 if norm == "linf" else 0.25)
    attack = PGD(threat=threat, steps=6, start="none", result="misclassified", targeted=targeted)
    whole, stepwise = attack(model, x, y), attacked(attack, model, x, y, None, None, targeted=targeted)
    assert torch.allclose(stepwise, whole, atol=1e-12)
    wrong = model(stepwise).argmax(dim=1) != clean
    assert 0 < int(wrong.sum()) < len(x)


def test_contract_in_a_queue_each_example_goes_the_same_way_in_any_company():
    """Of another width than there are examples: rows then are at different steps and restarts."""
    model, x = _convolutional(), _images()
    y, rng = model(x).argmax(dim=1), Streams(5, ("queue",))
    attack = PGD(threat=ThreatModel(eps=0.05), steps=4, restarts=3)
    whole, found = _rows(model, x, y, 0.05), {}
    for width in (12, 5):
        x_adv, steps = x.clone(), torch.zeros_like(y)
        for part in queued(attack, model, whole, rng, width=width):
            x_adv[part.rows], steps[part.rows] = part.x_adv, part.steps
            assert torch.equal(model(part.x_adv).argmax(dim=1) != y[part.rows], part.wrong)
        found[width] = x_adv, steps
    assert torch.allclose(found[5][0], found[12][0], atol=1e-12)
    assert torch.equal(found[5][1], found[12][1])
    assert int(found[5][1].max()) == 15 and len(found[5][1].unique()) > 2  # three restarts, five looks each


def test_closed_form_steps_are_counted_from_the_start():
    """The first pixel passes 0.75 with the third step of 0.01: that is what the fourth look sees."""
    x, y = torch.full((2, 1, 2, 2), 0.7295), torch.zeros(2, dtype=torch.int64)
    x[1] = 0.5
    attack = PGD(threat=ThreatModel(eps=0.1), steps=5, step_size=0.01, start="none")
    parts = {int(k): part for part in queued(attack, _Sizes(), _rows(_Sizes(), x, y, 0.1), Streams(), width=2)
             for k in part.rows}  # fmt: skip
    assert (parts[0].steps.tolist(), parts[0].wrong.tolist()) == ([4], [True])
    assert (parts[1].steps.tolist(), parts[1].wrong.tolist()) == ([6], [False])
    assert torch.allclose(parts[0].x_adv[0, 0, 0, 0], torch.tensor(0.7595))
    assert torch.allclose(parts[1].x_adv[0, 0, 0, 0], torch.tensor(0.55))


def test_closed_form_what_a_loss_makes_of_clean_inputs_is_made_of_their_logits():
    model, x = _convolutional(), _images()
    y = model(x).argmax(dim=1)
    state = PGD(loss=KL()).begin(_rows(model, x, y, 0.1), Streams())
    assert torch.equal(state["target"], KL().target(model, x, y))
    assert torch.equal(PGD().begin(_rows(model, x, y, 0.1), Streams())["target"], y)


class _Flat(nn.Module):
    """No gradient where the first pixel is above 0.5, and two logits that are equal where it is below 0.1."""

    def forward(self, x):
        first = x.flatten(1)[:, 0]
        top = torch.where(first > 0.5, 1.0, torch.where(first < 0.1, 0 * first, 1 + first))
        return torch.stack([top, 0 * first, torch.full_like(first, -1.0)], dim=1)


def test_closed_form_gradients_that_vanish_and_ties_are_told():
    x, y = torch.full((3, 1, 1, 1), 0.9), torch.zeros(3, dtype=torch.int64)
    x[1], x[2] = 0.3, 0.05
    attack = PGD(threat=ThreatModel(eps=0.01), start="none")
    state = attack.step(_Flat(), attack.begin(_rows(_Flat(), x, y, 0.01), Streams()), Streams())
    assert state["dull"].tolist() == [True, False, True]
    assert state["finite"].all() and not state["over"].any()
    broken = attack.step(_Nan(), attack.begin(_rows(_Flat(), x.repeat(1, 3, 1, 1), y, 0.01), Streams()), Streams())
    assert not broken["finite"].any()


def test_closed_form_steps_that_cannot_cross_the_ball_are_noted():
    short = PGD(threat=ThreatModel(eps=0.3), steps=20, step_size=2 / 255)
    assert short.note(10) == "20 steps of 2/255 move an input by at most 0.157, and eps is 0.3"
    assert replace(short, steps=39).note(10) == "" and PGD(steps=4, relative_step=0.25).note(10) == ""


@pytest.mark.parametrize(("eps", "steps"), [(0.4, 50), (0.3, 40), (0.0, 10), (0.005, 11), (0.07, 17)])
def test_closed_form_steps_follow_eps(eps, steps):
    """eps / 0.01 + 10, rounded up, as Liu 2020 has it on MNIST."""
    attack = PGD.liu().at(eps)
    assert (attack.steps, attack.step_size, attack.threat.eps) == (steps, 0.01, eps)
    assert attack.at(0.4) == PGD.liu()


def test_contract_steps_that_follow_eps_are_those_that_a_model_sees():
    seen, (x, y) = [], _data()
    model = _linear()
    model.register_forward_hook(lambda *_: seen.append(1))
    PGD(threat=ThreatModel(eps=0.2), more_steps=3, step_size=0.1).at(0.1)(model, x, y)
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("settings", "sentence"), [({"more_steps": -1, "step_size": 0.1}, "at least 0"), ({"more_steps": 3}, "step_size")]
)
def test_contract_steps_that_cannot_follow_eps_are_refused(settings, sentence):
    with pytest.raises(BadInput, match=sentence):
        PGD(**settings)
