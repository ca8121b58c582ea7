"""What must hold of every evaluation, on random networks, images, radii and budgets.

Flags are those of float64 networks: no rounding that depends on the batch decides one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustscape.attacks.apgd import APGD
from robustscape.attacks.cw import CW
from robustscape.attacks.fab import FAB
from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.losses import TargetedDLR
from robustscape.attacks.pgd import PGD
from robustscape.attacks.spsa import SPSA
from robustscape.attacks.square import Square
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.accuracy import Evaluating, evaluating
from robustscape.evaluation.judging import inside
from robustscape.evaluation.result import Evaluation
from robustscape.evaluation.subject import drained, subject

NORMS = ("linf", "l2", "l1")
DUAL = {"linf": 1, "l2": 2, "l1": torch.inf}
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))]


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A network, images, labels of which some are wrong, and a radius at which about half are fooled."""

    model: nn.Sequential
    x: Tensor
    y: Tensor
    threat: ThreatModel


def _network(kind: str, image: tuple[int, int, int], classes: int, seed: int) -> nn.Sequential:
    channels, height, width = image
    size = channels * height * width
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = {
            "linear": [nn.Flatten(), nn.Linear(size, classes)],
            "perceptron": [nn.Flatten(), nn.Linear(size, 12), nn.Tanh(), nn.Linear(12, classes)],
            "convolutional": [nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Flatten(),
                              nn.Linear(4 * (height - 2) * (width - 2), classes)],
        }[kind]  # fmt: skip
        return nn.Sequential(*layers).double().eval()


def _case(seed: int, norm: str, *, kind: str = "", classes: int = 0) -> Case:
    draw = np.random.default_rng(seed)
    image = (int(draw.integers(1, 4)), int(draw.integers(4, 8)), int(draw.integers(4, 8)))
    classes = classes or int(draw.integers(2, 6))
    model = _network(kind or str(draw.choice(["linear", "perceptron", "convolutional"])), image, classes, seed)
    x = torch.from_numpy(draw.uniform(-0.1, 1.1, (int(draw.integers(7, 14)), *image))).clamp(0, 1)
    with torch.no_grad():
        model[-1].bias -= model(x).mean(dim=0)  # pyright: ignore[reportOperatorIssue]
        y = model(x).argmax(dim=1)
    leaf = x.clone().requires_grad_()
    top = model(leaf).topk(2, dim=1).values
    (slope,) = torch.autograd.grad((top[:, 0] - top[:, 1]).sum(), leaf)
    distance = (top[:, 0] - top[:, 1]).detach() / torch.linalg.vector_norm(slope.flatten(1), DUAL[norm], dim=1)
    y[::6] = (y[::6] + 1) % classes
    eps = float(distance.median()) * draw.uniform(0.8, 1.3)
    return Case(model=model, x=x, y=y, threat=ThreatModel(norm=norm, eps=eps))  # pyright: ignore[reportArgumentType]


def _attacks(threat: ThreatModel) -> list:
    """Return short forms of all attacks that know the norm, weak ones first."""
    of_all = [
        Square(threat=threat, queries=6, rescale=True),
        APGD(threat=threat, steps=4),
        FAB(threat=threat, steps=3, targets=2),
        APGD(threat=threat, steps=6, loss=TargetedDLR(), targets=2),
    ]
    if threat.norm == "l1":
        return of_all
    pgd = PGD(threat=threat, steps=3, result="misclassified")
    return [FGSM(threat=threat), *of_all[:1], SPSA(threat=threat, steps=2, samples=4), pgd, CW(threat=threat, steps=3),
            *of_all[1:]]  # fmt: skip


def _evaluated(case: Case, *attacks, batch: int = 250, order: Tensor | None = None) -> Evaluation:
    threat = attacks[0].threat
    settings = Evaluating(
        attacks=attacks, norm=threat.norm, eps=threat.eps, loss_restarts=0, sanity=0, n=None, batch_size=batch
    )
    rows = torch.arange(len(case.x)) if order is None else order
    classes = [str(k) for k in range(case.model(case.x[:1]).shape[1])]
    looked_at = subject(case.model, case.x[rows], case.y[rows], index=rows, seed=3, batch=batch, classes=classes)
    return drained(evaluating(settings, looked_at, adversarial=True))


def _assert_grows(found: list[Evaluation]) -> None:
    """Whoever was fooled with less is fooled with more, and by the same input."""
    for less, more in pairwise(found):
        assert not (less.fooled & ~more.fooled).any()
        assert less.x_adv is not None and more.x_adv is not None
        assert (less.x_adv[less.fooled] == more.x_adv[less.fooled]).all()


@pytest.mark.filterwarnings("ignore:(targeted )?DLR needs")
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", SEEDS)
def test_contract_more_attacks_leave_no_more_robust(seed, norm):
    case = _case(seed, norm)
    attacks = _attacks(case.threat)
    found = [_evaluated(case, *attacks[:count]) for count in range(1, len(attacks) + 1)]
    _assert_grows(found)
    whole = found[-1]
    assert whole.fooled.sum() == whole.searches[-1].robust_error.value * whole.robust_error.n
    assert sum(search.flips for search in whole.searches) == (whole.first >= 0).sum()
    for attack in attacks:  # whom an attack fools alone, it fools beside others, or they did before it
        assert not (_evaluated(case, attack).fooled & ~whole.fooled).any()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", SEEDS)
def test_contract_more_restarts_leave_no_more_robust(seed, norm):
    case = _case(seed, norm)
    for attack in _attacks(replace(case.threat, eps=0.7 * case.threat.eps)):
        if hasattr(attack, "restarts") and not isinstance(getattr(attack, "loss", None), TargetedDLR):
            few = replace(attack, targets=1) if isinstance(attack, FAB) else attack
            _assert_grows([_evaluated(case, replace(few, restarts=count)) for count in (1, 2, 4)])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("seed", SEEDS)
def test_contract_more_steps_leave_no_more_robust(seed, norm):
    """Of attacks whose first steps do not depend on how many there are to be."""
    case = _case(seed, norm)
    threat = replace(case.threat, eps=0.8 * case.threat.eps)
    pgd = PGD(threat=threat, result="misclassified")
    for attack in (pgd, CW(threat=threat), SPSA(threat=threat, samples=4)):
        _assert_grows([_evaluated(case, replace(attack, steps=steps)) for steps in (1, 3, 8)])
    _assert_grows([_evaluated(case, Square(threat=threat, queries=queries)) for queries in (1, 5, 30)])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("seed", SEEDS)
def test_contract_a_larger_eps_leaves_no_more_robust(seed, norm):
    """Of searches that reach the exact adversary of a linear network of two classes; 0 leaves what is right."""
    case = _case(seed, norm, kind="linear", classes=2)
    case = replace(case, x=0.4 + 0.2 * case.x)  # the box does not bind
    with torch.no_grad():
        case.model[-1].bias -= case.model(case.x).mean(dim=0)  # pyright: ignore[reportOperatorIssue]
    radii = [share * 0.4 * case.threat.eps for share in (0.0, 0.25, 0.5, 1.0, 1.5)]
    for attack in (FGSM(threat=case.threat), PGD(threat=case.threat, steps=10, result="misclassified")):
        found = [_evaluated(case, attack.at(eps)).fooled for eps in radii]
        wrong = (case.model(case.x).argmax(dim=1) != case.y).numpy()
        assert (found[0] == wrong).all()
        for less, more in pairwise(found):
            assert not (less & ~more).any()
        assert found[0].sum() < found[-1].sum()


@pytest.mark.filterwarnings("ignore:(targeted )?DLR needs")
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", SEEDS)
def test_contract_what_is_kept_lies_in_ball_and_box_and_fools(seed, norm):
    case = _case(seed, norm)
    for attack in _attacks(case.threat):
        found = _evaluated(case, attack)
        assert found.x_adv is not None
        x_adv = torch.from_numpy(found.x_adv)
        assert bool(inside(case.threat, x_adv, case.x).all())
        length = torch.linalg.vector_norm(
            (x_adv - case.x).flatten(1), {"linf": torch.inf, "l2": 2, "l1": 1}[norm], dim=1
        )
        assert float(length.max()) <= case.threat.eps * (1 + 1e-12) + 1e-14
        assert float(x_adv.min()) >= 0 and float(x_adv.max()) <= 1
        with torch.no_grad():
            assert torch.equal(case.model(x_adv).argmax(dim=1) != case.y, torch.from_numpy(found.fooled))
        same = (x_adv == case.x).flatten(1).all(dim=1).numpy()
        assert same[found.first < 0].all() and not same[found.first >= 0].any()


@pytest.mark.filterwarnings("ignore:(targeted )?DLR needs")
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", SEEDS)
def test_contract_flags_are_the_same_in_any_batch_and_order(seed, norm):
    case = _case(seed, norm)
    attacks = _attacks(case.threat)
    whole = _evaluated(case, *attacks)
    assert 0 < whole.fooled.sum() <= len(case.x)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(case.x)))
    for batch, rows in ((1, None), (3, order), (250, order.flip(0)), (4, order[: len(order) // 2])):
        found = _evaluated(case, *attacks, batch=batch, order=rows)
        assert (found.fooled == whole.fooled[found.index]).all()
        assert (found.first == whole.first[found.index]).all() and (found.steps == whole.steps[found.index]).all()


@pytest.mark.filterwarnings("ignore:(targeted )?DLR needs")
@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
def test_contract_the_worst_case_is_the_same_in_any_order_of_the_attacks(norm):
    """Whom attacks fool one after the other is whom any of them fools alone; their losses only rise."""

    @settings(max_examples=48, deadline=None, derandomize=True, database=None, phases=(Phase.generate,))
    @given(st.integers(0, 2**32 - 1), st.permutations(range(4)), st.integers(2, 3), st.sampled_from([1, 3, 250]))
    def holds(seed, order, count, batch):
        case = _case(seed, norm)
        chosen = [_attacks(case.threat)[place] for place in order[:count]]
        together = _evaluated(case, *chosen, batch=batch)
        alone = [_evaluated(case, attack) for attack in chosen]
        assert (together.fooled == np.any([one.fooled for one in alone], axis=0)).all()
        assert together.first.max() < count
        for place, one in enumerate(alone):  # the first to succeed does so as it does alone
            mine = together.first == place
            assert (one.first[mine] == 0).all() and (one.steps[mine] == together.steps[mine]).all()
        assert (together.losses >= alone[0].losses - 1e-9).all()  # batches of other sizes round otherwise

    holds()
