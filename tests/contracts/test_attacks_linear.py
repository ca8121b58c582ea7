"""Every attack on linear models, where the worst margin in ball and pixel box is known exactly."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from robustscape.attacks.apgd import APGD
from robustscape.attacks.fab import FAB
from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.losses import TargetedDLR
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.linear.multiclass import largest_eps, worst_gaps
from robustscape.models.linear import Linear
from robustscape.streams import Streams

THREATS = {"linf": ThreatModel(norm="linf", eps=0.02), "l2": ThreatModel(norm="l2", eps=0.25)}
ROUNDING = 1e-11  # float64, margins up to 1; the L2 ball is short by 1e-12


@pytest.fixture
def problem(batch):
    """Makes a linear model of 2 or 3 classes and images, most of them classified: ``problem(3)``."""

    def make(classes):
        kind = Linear(outputs="one" if classes == 2 else "classes")
        model, x = kind.build(image=(2, 8, 8), classes=classes, seed=1).double(), batch(48, torch.float64).x
        model.linear.bias.data -= model.linear(x.flatten(1)).mean(dim=0)
        with torch.no_grad():
            y = model(x).argmax(dim=1)
        y[::8] = (y[::8] + 1) % classes
        return model, x, y

    return make


def margins(model, x, y):
    """Return by how much the right logit is ahead of all others, (N,)."""
    with torch.no_grad():
        z = model(x)
    own = F.one_hot(y, z.shape[1]).bool()
    return z[own] - z.masked_fill(own, -torch.inf).amax(dim=1)


def exact(model, x, y, threat):
    """Return the smallest margins in ball and box, (N,)."""
    w, b = model.linear.weight.detach(), model.linear.bias.detach()
    if len(w) == 1:
        w, b = F.pad(w, (0, 0, 1, 0)), F.pad(b, (1, 0))
    gaps = worst_gaps(w, x.flatten(1), y, norm=threat.norm, eps=threat.eps, box=(0.0, 1.0), intercept=b)
    return -gaps.amax(dim=1)


def nearest(model, x, y, norm):
    """Return the distance to the nearest misclassified input of the box, (N,)."""
    w, b = model.linear.weight.detach(), model.linear.bias.detach()
    if len(w) == 1:
        w, b = F.pad(w, (0, 0, 1, 0)), F.pad(b, (1, 0))
    return largest_eps(w, x.flatten(1), y, norm=norm, box=(0.0, 1.0), intercept=b)


@pytest.mark.filterwarnings("ignore:targeted DLR needs four")
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("norm", THREATS)
def test_contract_no_attack_beats_the_exact_adversary(attack, norm, classes, problem):
    model, x, y = problem(classes)
    least = exact(model, x, y, THREATS[norm])
    x_adv = replace(attack, threat=THREATS[norm])(model, x, y, rng=Streams(2, ("x",), torch.arange(len(x))))
    found = margins(model, x_adv, y)
    assert bool((found >= least - ROUNDING).all())
    accuracy, robust, clean = (float((of > 0).double().mean()) for of in (found, least, margins(model, x, y)))
    assert 0.2 < robust <= accuracy
    assert robust < clean


SEARCHES = {
    "pgd": PGD(steps=100, relative_step=0.04, result="misclassified"),
    "apgd": APGD(),
    "apgd-t": APGD(loss=TargetedDLR()),
    "fab": FAB(steps=30),
}
EXACT = [("pgd", 2, "linf"), ("pgd", 2, "l2"), *((n, 2, p) for n in ("apgd", "fab") for p in ("linf", "l2", "l1"))]
EXACT += [(name, 3, norm) for name in ("apgd-t", "fab") for norm in ("linf", "l2", "l1")]


@pytest.mark.filterwarnings("ignore:targeted DLR needs four")
@pytest.mark.parametrize("box", [True, False], ids=["box", "far from the box"])
@pytest.mark.parametrize("bias", [True, False], ids=["affine", "linear"])
@pytest.mark.parametrize(("name", "classes", "norm"), EXACT)
def test_closed_form_robust_accuracy_is_exact(name, classes, norm, bias, box, problem):
    """At a radius in the widest gap between the distances; of more than two classes where each is gone for."""
    model, x, y = problem(classes)
    x = x if box else 0.4 + 0.2 * x
    with torch.no_grad():
        model.linear.bias.data.zero_()
        if bias:
            model.linear.bias.data -= model.linear(x.flatten(1)).mean(dim=0)
        y = torch.where(torch.arange(len(y)) % 8 > 0, model(x).argmax(dim=1), y)
    distance = nearest(model, x, y, norm)
    ordered = distance[(distance > 0) & torch.isfinite(distance)].sort().values
    middle = ordered[len(ordered) // 5 : -len(ordered) // 5]
    place = int((middle[1:] / middle[:-1]).argmax())
    eps = float(middle[place : place + 2].mean())
    x_adv = replace(SEARCHES[name], threat=ThreatModel(norm=norm, eps=eps))(model, x, y)
    assert torch.equal(margins(model, x_adv, y) < 0, distance < eps)
    assert 0.1 < float((distance > eps).double().mean()) < 0.9


def test_closed_form_one_step_of_fgsm_is_the_exact_adversary_of_two_classes_under_linf(problem):
    model, x, y = problem(2)
    found = margins(model, FGSM(threat=THREATS["linf"])(model, x, y), y)
    torch.testing.assert_close(found, exact(model, x, y, THREATS["linf"]), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("start", ["uniform", "none"])
def test_closed_form_pgd_is_the_exact_adversary_of_two_classes_under_linf(problem, start):
    model, x, y = problem(2)
    found = margins(model, PGD(threat=THREATS["linf"], start=start)(model, x, y), y)
    torch.testing.assert_close(found, exact(model, x, y, THREATS["linf"]), rtol=0, atol=ROUNDING)


def test_closed_form_pgd_nearly_reaches_the_exact_adversary_of_two_classes_under_l2(problem):
    """Into the ball, then into the box, is not the nearest point: what is missing shrinks with the step."""
    model, x, y = problem(2)
    threat, clean = THREATS["l2"], margins(model, x, y)
    least, missing = exact(model, x, y, threat), []
    for step in (0.04, 0.01):
        pgd = PGD(threat=threat, steps=round(4 / step), relative_step=step, start="none")
        missing.append(float(((margins(model, pgd(model, x, y), y) - least) / (clean - least)).max()))
    assert -ROUNDING < missing[1] < missing[0] / 2
    assert missing[1] < 1e-3


def test_closed_form_pgd_is_the_exact_adversary_of_two_classes_under_l2_far_from_the_box(problem):
    model, x, y = problem(2)
    x = 0.3 + 0.4 * x
    found = margins(model, PGD(threat=THREATS["l2"], start="none")(model, x, y), y)
    torch.testing.assert_close(found, exact(model, x, y, THREATS["l2"]), rtol=0, atol=ROUNDING)
