"""FAB and FAB-T, against pyautoattack and against linear models."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustscape.attacks._projections import DUAL, length
from robustscape.attacks.fab import FAB
from robustscape.attacks.queue import queued
from robustscape.attacks.reference import reference
from robustscape.attacks.threat import ThreatModel
from robustscape.attacks.walk import Rows
from robustscape.linear.multiclass import largest_eps
from robustscape.models.linear import Linear
from robustscape.streams import Streams
from robustscape.types import BadInput, Diverged

LARGEST = {"linf": 1.0, "l2": 30.0, "l1": 1000.0}  # radii of the whole box, for small images
NORMS = list(LARGEST)


class _Net(nn.Module):
    """A small network of smooth activations: "conv", "mlp" or "linear"."""

    def __init__(self, kind, image, classes, seed=3):
        super().__init__()
        c, h, w = image
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layers = {
                "conv": lambda: [nn.Conv2d(c, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 3, stride=2), nn.SiLU(),
                                 nn.Flatten(), nn.LazyLinear(classes)],
                "mlp": lambda: [nn.Flatten(), nn.Linear(c * h * w, 40), nn.Tanh(), nn.Linear(40, classes)],
                "linear": lambda: [nn.Flatten(), nn.Linear(c * h * w, classes)],
            }  # fmt: skip
            self.layers = nn.Sequential(*layers[kind]())
            self.layers(torch.rand(1, *image))
            for parameter in self.parameters():
                parameter.data *= 2

    def forward(self, x):
        return self.layers(x)


def _problem(kind="conv", image=(3, 8, 8), classes=10, n=16, dtype=torch.float32):
    """A network and images that it classifies, but for two labels that are wrong."""
    model = _Net(kind, image, classes).to(dtype).eval()
    x = torch.rand(n, *image, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        z = model(x)
        model.layers[-1].bias.data -= z.mean(dim=0) * 0.9  # all classes occur, their regions near to one another
        y = model(x).argmax(dim=1)
    y[1::8] = (y[1::8] + 1) % classes
    return model, x, y


def _radius(model, x, y, norm):
    """A threat whose eps about half of the images survive: the median of margin over slope."""
    x = x.clone().requires_grad_()
    z = model(x)
    gap = z.gather(1, y[:, None])[:, 0] - z.scatter(1, y[:, None], -torch.inf).amax(dim=1)
    (w,) = torch.autograd.grad(gap.sum(), x)
    distance = (gap / length(w, DUAL[norm])).detach()
    return ThreatModel(norm=norm, eps=float(distance[distance > 0].median()))


def _wrong(model, x, y):
    with torch.no_grad():
        return model(x).argmax(dim=1) != y


def _theirs(model, x, y, fab, seed):
    """What pyautoattack's FAB returns; it seeds the global generators and fills gradients."""
    from pyautoattack.fab_pt import FABAttack_PT

    norm = {"linf": "Linf", "l2": "L2", "l1": "L1"}[fab.threat.norm]
    attack = FABAttack_PT(
        model, norm=norm, n_restarts=fab.restarts, n_iter=fab.steps, eps=fab.threat.eps, seed=seed, device="cpu",
        targeted=fab.targets is not None, n_target_classes=fab.targets or 9,
    )  # fmt: skip
    with torch.random.fork_rng():
        return attack.perturb(x, y)


@pytest.mark.parametrize("kind", ["conv", "mlp", "linear"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "change",
    [{"targets": 3}, {"targets": 2, "restarts": 2}, {"targets": None, "restarts": 2}],
    ids=["targets", "restarts", "untargeted"],
)
def test_reference_returns_what_pyautoattack_returns(kind, norm, change):
    model, x, y = _problem(kind)
    fab = FAB(threat=_radius(model, x, y, norm), steps=12, **change)
    ours, theirs = reference(fab, model, x, y, seed=5), _theirs(model, x, y, fab, 5)
    flags = _wrong(model, ours, y)
    assert torch.equal(flags, _wrong(model, theirs, y))
    assert 4 <= int(flags.sum()) <= 14
    if norm != "l1":
        assert torch.equal(ours, theirs)
    # Under l1 it is projected in our own way.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_reference_with_minimum_no_point_is_further_than_pyautoattacks(norm):
    """On the same way, ours looks at the points moved back too; 20 steps in float32 round as the processor does."""
    model, x, y = _problem()
    fab = FAB(threat=ThreatModel(norm=norm, eps=LARGEST[norm]), steps=20, targets=1, minimum=True)
    ours, theirs = (length(found - x, norm) for found in (fab(model, x, y), _theirs(model, x, y, fab, 5)))
    assert bool((ours <= theirs * (1 + 1e-3)).all()) and 0 < float(theirs.median()) < LARGEST[norm] / 3


# -- linear models -----------------------------------------------------------------------------------------


def _linear(classes, *, contrast=1.4):
    """A linear model in float64, images (some pixels on the box's faces), labels, and their exact distances."""
    kind = Linear(outputs="one" if classes == 2 else "classes")
    model = kind.build(image=(2, 6, 5), classes=classes, seed=1).double()
    x = torch.rand(32, 2, 6, 5, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    x = (0.5 + (x - 0.5) * contrast).clamp(0, 1)
    model.linear.bias.data -= model.linear(x.flatten(1)).mean(dim=0)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    y[::8] = (y[::8] + 1) % classes
    w, b = model.linear.weight.detach(), model.linear.bias.detach()
    if classes == 2:
        w, b = F.pad(w, (0, 0, 1, 0)), F.pad(b, (1, 0))
    exact = {norm: largest_eps(w, x.flatten(1), y, norm=norm, box=(0.0, 1.0), intercept=b) for norm in NORMS}
    return model, x, y, exact


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("norm", NORMS)
def test_closed_form_the_least_norm_is_the_distance_to_the_boundary(classes, norm):
    model, x, y, exact = _linear(classes)
    fab = FAB(threat=ThreatModel(norm=norm, eps=LARGEST[norm]), steps=30, minimum=True)
    x_adv = fab(model, x, y)
    assert bool(_wrong(model, x_adv, y).all())
    found = length(x_adv - x, norm)
    assert bool((found >= exact[norm] * (1 - 1e-12)).all())
    assert bool((found <= exact[norm] * 1.02).all())
    assert torch.equal(found == 0, exact[norm] == 0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_closed_form_untargeted_finds_the_nearest_boundary_far_from_the_box(norm):
    """Which boundary is nearest is judged without the box, so near its faces it may be another one."""
    model, x, y, exact = _linear(5, contrast=0.3)
    fab = FAB(threat=ThreatModel(norm=norm, eps=LARGEST[norm]), steps=30, targets=None, minimum=True)
    found = length(fab(model, x, y) - x, norm)
    assert bool((found >= exact[norm] * (1 - 1e-12)).all())
    assert bool((found <= exact[norm] * 1.02).all())


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize(
    ("norm", "contrast", "above"),
    [("linf", 0.3, 1.0001), ("l2", 0.3, 1.0001), ("linf", 1.4, 1.01), ("l2", 1.4, 1.01), ("l1", 1.4, 1.02)],
)
def test_closed_form_radii_just_above_the_distance_are_enough_and_none_below(classes, norm, contrast, above):
    """Far from the box (low contrast) the nearest point, moved onto the ball's surface, is the exact adversary."""
    model, x, y, exact = _linear(classes, contrast=contrast)
    fab = FAB(threat=ThreatModel(norm=norm, eps=LARGEST[norm]), steps=30)
    for factor, fooled in ((above, True), (0.9999, False)):
        wrong = _wrong(model, fab(model, x, y, eps=exact[norm] * factor), y)
        assert torch.equal(wrong, (exact[norm] == 0) | fooled)


@pytest.mark.parametrize("norm", NORMS)
def test_closed_form_robust_accuracy_is_exact(norm):
    """The radius is where the distances have their widest gap, so that none is within 2 % of it."""
    model, x, y, exact = _linear(5)
    distance = exact[norm].sort().values[10:24]
    place = int((distance[1:] / distance[:-1]).argmax())
    eps = float(distance[place : place + 2].mean())
    assert bool(((exact[norm] / eps - 1).abs() > 0.02).all())
    x_adv = FAB(threat=ThreatModel(norm=norm, eps=eps), steps=30)(model, x, y)
    assert torch.equal(_wrong(model, x_adv, y), exact[norm] < eps)


# -- steps -------------------------------------------------------------------------------------------------


class _Counted(nn.Module):
    """Counts its forwards."""

    def __init__(self, model):
        super().__init__()
        self.model, self.forwards = model, 0

    def forward(self, x):
        self.forwards += 1
        return self.model(x)


@pytest.mark.parametrize("minimum", [False, True])
def test_closed_form_an_image_out_of_reach_takes_a_forward_more_than_steps_for_each_target(minimum):
    model, x, y, _ = _linear(5)
    model.linear.bias.data += 100 * F.one_hot(torch.tensor(2), 5)
    counted, y = _Counted(model), torch.full_like(y, 2)
    x_adv = FAB(threat=ThreatModel(eps=0.3), steps=7, targets=3, minimum=minimum)(counted, x, y)
    assert counted.forwards == 1 + 3 * (7 + 1)
    assert not bool(_wrong(model, x_adv, y).any())
    assert float((x_adv - x).abs().max()) <= 0.3


def test_closed_form_going_back_takes_a_forward_and_no_iteration():
    model, x, y, exact = _linear(2)
    counted, eps = _Counted(model), float(exact["linf"][1]) / 2
    # Eps is far below the distance: every iteration ends behind the boundary, and goes back to before it.
    FAB(threat=ThreatModel(eps=eps), steps=7, targets=1)(counted, x[1:2], y[1:2])
    assert counted.forwards == 1 + 2 * 7 + 1  # the first looks at x, the last at the ball's surface


def _rows(model, x, y, eps, index):
    with torch.no_grad():
        logits = model(x)
    return Rows(x=x, y=y, eps=eps, index=index, logits=logits, round=torch.zeros_like(y))


@pytest.mark.parametrize(
    "change",
    [{"targets": 3}, {"targets": 2, "restarts": 2, "minimum": True}, {"targets": None, "restarts": 2}],
    ids=["fixed", "minimum", "untargeted"],
)
@pytest.mark.parametrize("norm", NORMS)
def test_contract_a_row_is_searched_as_if_it_were_alone(norm, change):
    model, x, y = _problem("mlp", image=(1, 5, 7), n=8)
    threat = _radius(model, x, y, norm)
    fab, rng = FAB(threat=threat, steps=4, **change), Streams(2, ("x",))
    left = (~_wrong(model, x, y)).nonzero().flatten()
    rows = _rows(model, x[left], y[left], torch.full((len(left),), threat.eps), left)
    found = {}
    for part in queued(fab, model, rows, rng, width=4):
        found |= {row: (part.x_adv[k], part.wrong[k], part.steps[k]) for k, row in enumerate(part.rows.tolist())}
    assert {bool(wrong) for _, wrong, _ in found.values()} == {True, False}
    for row in range(len(rows)):
        (alone,) = queued(fab, model, rows.take(torch.tensor([row])), rng, width=4)
        assert torch.equal(alone.x_adv[0], found[row][0]) and bool(alone.wrong[0]) == bool(found[row][1])
        assert int(alone.steps[0]) == int(found[row][2])


@pytest.mark.slow
def test_contract_a_step_does_not_wait_for_the_device():
    """On the device "meta" nothing has a value, so whoever asks for one fails."""
    model, x, y = _problem(n=4)
    for change in ({"targets": 3}, {"targets": None, "restarts": 2}, {"restarts": 2, "minimum": True}):
        for norm in NORMS:
            fab = FAB(threat=ThreatModel(norm=norm), **change)
            rows = _rows(model, x, y, torch.full((4,), 0.1), torch.arange(4))
            rows = Rows(**{name: value.to("meta") for name, value in vars(rows).items()})
            state = fab.begin(rows, Streams())
            after = fab.step(_Net("conv", (3, 8, 8), 10).to("meta"), state, Streams())
            assert {name: (v.shape, v.dtype) for name, v in after.items()} == {
                name: (v.shape, v.dtype) for name, v in state.items()
            }


def test_contract_a_success_that_is_not_confirmed_is_followed_by_others():
    model, x, y = _problem(n=8)
    left = (~_wrong(model, x, y)).nonzero().flatten()
    rows = _rows(model, x[left], y[left], torch.full((len(left),), 0.5), left)
    claims = torch.zeros(len(left), dtype=torch.int64)

    def second(x_adv, row):
        claims[row] += 1
        return claims[row] > 1

    settled = list(queued(FAB(steps=10, targets=2), model, rows, Streams(), width=8, confirm=second))
    assert all(bool(part.wrong.all()) for part in settled) and claims.tolist() == [2] * len(left)


# -- what may be asked -------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_contract_radii_of_their_own_give_what_the_one_radius_gives(norm):
    model, x, y = _problem(n=8)
    middle = _radius(model, x, y, norm).eps
    eps = middle * torch.tensor([0.0, 0.5, 0.9, 1.1, 0.0, 0.5, 0.9, 1.1])
    fab = FAB(threat=ThreatModel(norm=norm, eps=middle), steps=6, targets=2)
    mixed = fab(model, x, y, eps=eps)
    for radius in eps.unique():
        same = eps == radius
        alone = fab(model, x, y, eps=torch.full_like(eps, float(radius)))
        assert torch.equal(mixed[same], alone[same])
    assert torch.equal(mixed[::4], x[::4])
    assert bool((length(mixed - x, norm) <= eps * (1 + 1e-6)).all())


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("norm", NORMS)
def test_contract_wanted_classes_are_reached(classes, norm):
    model, x, y = _problem("mlp", image=(1, 5, 9), classes=classes, dtype=torch.float64)
    wanted = (y + 1) % classes
    for minimum in (False, True):
        fab = FAB(threat=ThreatModel(norm=norm, eps=LARGEST[norm]), steps=30, targeted=True, minimum=minimum)
        x_adv = fab(model, x, wanted)
        assert int(_wrong(model, x_adv, wanted).sum()) <= (3 if norm == "l1" else 0)  # few pixels at a time: slower
        assert 0 <= float(x_adv.min()) <= float(x_adv.max()) <= 1


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("image", [(1, 8, 8), (3, 5, 11)])
@pytest.mark.parametrize("norm", NORMS)
def test_contract_few_classes_one_channel_and_other_shapes(classes, image, norm):
    model, x, y = _problem("conv", image=image, classes=classes)
    threat = _radius(model, x, y, norm)
    x_adv = FAB(threat=threat, steps=10)(model, x, y)
    wrong, length_ = _wrong(model, x_adv, y), length(x_adv - x, norm)
    assert int(_wrong(model, x, y).sum()) < int(wrong.sum()) < len(x)
    assert float(length_.max()) <= threat.eps * (1 + 1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "at least 1 step"),
        ({"restarts": 0}, "1 restart"),
        ({"targets": 0}, "did you mean None"),
        ({"alpha_max": 1.5}, r"outside \[0, 1\]"),
        ({"eta": 0.95}, "did you mean 1.05"),
        ({"eta": float("nan")}, "eta"),
        ({"beta": 0.0}, r"outside \(0, 1\]"),
    ],
)
def test_contract_settings_that_cannot_be_meant_are_refused(change, message):
    with pytest.raises(BadInput, match=message):
        FAB(**change)


def test_contract_one_output_is_refused_and_so_is_a_reference_that_does_not_exist():
    model, x, y = _problem(n=4)
    one = nn.Sequential(model, nn.Linear(10, 1))
    with pytest.raises(BadInput, match="at least 2 outputs"):
        FAB()(one, x, torch.zeros_like(y))
    with pytest.raises(BadInput, match="no FAB with minimum"):
        reference(FAB(minimum=True), model, x, y, seed=1)


def test_contract_nan_is_an_error():
    class Broken(nn.Module):
        def forward(self, x):
            return torch.where(x.sum(dim=(1, 2, 3)) == total[: len(x)], 1.0, torch.nan)[:, None] * model(x)

    model, x, y = _problem(n=4)
    total = x.sum(dim=(1, 2, 3))
    with pytest.raises(Diverged, match="NaN under attack"):
        FAB(steps=5)(Broken(), x, y)


def test_contract_captions_say_what_it_does():
    assert FAB().describe() == "FAB-100 (linf 8/255, up to 9 targets, 1 restart)"
    fab = replace(FAB(targets=None, restarts=5, minimum=True), threat=ThreatModel(norm="l2", eps=0.5))
    assert fab.describe() == "FAB-100 (l2 0.5, untargeted, 5 restarts, least norm)"
    assert FAB(targeted=True, targets=1).describe() == "FAB-100 (linf 8/255, targeted, 1 restart)"


class _Counting(nn.Module):
    """A network that counts its forwards of which gradients are wanted."""

    def __init__(self, model):
        super().__init__()
        self.model, self.forwards = model, 0

    def forward(self, x):
        self.forwards += torch.is_grad_enabled()
        return self.model(x)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_contract_untargeted_works_on_compiled_networks_that_keep_no_way_back(norm):
    model, x, y = _problem("conv", image=(1, 6, 6), classes=4, n=6)
    code, fab = torch.compile(model, backend="aot_eager"), FAB(threat=_radius(model, x, y, norm), steps=3, targets=None)
    at = x.clone().requires_grad_()
    torch.autograd.grad(code(at).sum(), at)  # what the first one does without is not kept for those after it
    with pytest.raises(RuntimeError, match="donated_buffer"):
        torch.autograd.grad(code(at).sum(), at, retain_graph=True)
    plain, compiled = _Counting(model), _Counting(code)
    x_adv = fab(compiled, x, y)
    assert torch.equal(x_adv, fab(plain, x, y))
    assert bool(_wrong(model, x_adv, y).any())
    # Of the three gradients of a step the first takes the forward that there is.
    assert plain.forwards < compiled.forwards <= 3 * plain.forwards
