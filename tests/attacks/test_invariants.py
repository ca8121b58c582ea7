"""What must hold of every attack, whatever its settings, on random small networks, images and radii.

Attacks are found by their room and get every setting that they accept. The networks add up row by row, so that the
rounding of an example does not depend on its batch: what is the same is then the same to the bit.
"""

from __future__ import annotations

import copy
import inspect
import random
import typing
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustscape.attacks.fab import FAB
from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.losses import DLR, KL, CrossEntropy, Margin, TargetedDLR
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.config import hints, members
from robustscape.linear.multiclass import largest_eps
from robustscape.streams import Streams
from robustscape.types import BadInput

NORMS = ("linf", "l2", "l1")
ORDER = {"linf": torch.inf, "l2": 2, "l1": 1}
DUAL = {"linf": 1, "l2": 2, "l1": torch.inf}
LARGEST = {"linf": 1.0, "l2": 30.0, "l1": 1000.0}
IMAGES = [(1, 1, 2), (2, 1, 1), (1, 3, 1), (1, 2, 3), (2, 2, 2), (3, 1, 3), (1, 3, 4), (3, 2, 2)]
COUNTS = {"steps": 6, "queries": 12, "samples": 3, "restarts": 2, "targets": 3, "eot": 2, "chunk": 8, "batch_size": 4}
LOSSES = (CrossEntropy(), Margin(), DLR(), TargetedDLR(), KL())

pytestmark = [pytest.mark.filterwarnings("ignore:(targeted )?DLR needs"), pytest.mark.slow]


def many(examples):
    """Try a property on so many examples, the same ones in every run and as small as drawn: they are small."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),  # refused settings are many
    )


# -- random networks, examples and attacks ---------------------------------------------------------------------


class Rowwise(nn.Module):
    """A linear layer that adds up each row by itself, which products of matrices do not."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1)[:, None] * self.weight).sum(dim=2) + self.bias


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A network with images, some pixels at the ends of the box, labels and a radius for each, 0 among them."""

    model: nn.Module
    x: Tensor
    y: Tensor
    eps: Tensor
    rng: Streams

    def take(self, rows: Tensor) -> Case:
        assert self.rng.index is not None
        return replace(self, x=self.x[rows], y=self.y[rows], eps=self.eps[rows], rng=self.rng.of(self.rng.index[rows]))


@st.composite
def cases(draw, norm, dtype=torch.float64, *, kinds=("linear", "smooth", "kinked"), classes=(2, 5), least=1):
    """Radii are about what a step to the boundary takes, where the network is followed by its tangent."""
    random_numbers = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    image, count = draw(st.sampled_from(IMAGES)), draw(st.integers(*classes))
    kind, n = draw(st.sampled_from(kinds)), draw(st.integers(least, 5))

    def layer(wide: int, narrow: int) -> Rowwise:
        weight = torch.from_numpy(random_numbers.normal(0, 1, (narrow, wide)))
        return Rowwise(weight, -weight.sum(dim=1) / 2)

    size = int(np.prod(image))
    layers = [layer(size, count)]
    if kind != "linear":
        layers = [layer(size, 6), nn.Tanh() if kind == "smooth" else nn.LeakyReLU(0.1), layer(6, count)]
    model = nn.Sequential(*layers).to(dtype)
    x = torch.from_numpy(random_numbers.uniform(-0.2, 1.2, (n, *image))).clamp(0, 1).to(dtype)
    x = x.requires_grad_()
    top = model(x).topk(2, dim=1)
    (slope,) = torch.autograd.grad((top.values[:, 0] - top.values[:, 1]).sum(), x)
    y = torch.where(torch.from_numpy(random_numbers.random(n) < 0.15), top.indices[:, 1], top.indices[:, 0])
    size = torch.linalg.vector_norm(slope.flatten(1), DUAL[norm], dim=1).clamp(min=1e-9)
    distance = (top.values[:, 0] - top.values[:, 1]).detach() / size
    shares = torch.tensor(draw(st.lists(st.sampled_from([0.0, 0.5, 0.9, 1.1, 1.5, 4.0]), min_size=n, max_size=n)))
    eps = (distance * shares.to(dtype)).clamp(max=LARGEST[norm])
    index = torch.from_numpy(random_numbers.permutation(1000)[:n])
    return Case(model=model, x=x.detach(), y=y, eps=eps, rng=Streams(draw(st.integers(0, 9)), ("x",), index))


def knows(kind, norm):
    try:
        return kind(threat=ThreatModel(norm=norm, eps=0.1)) is not None
    except BadInput:
        return False


@st.composite
def attacks(draw, norm, eps=0.1, *, having="", **fixed):
    """Any attack of the room that knows the norm, and has a method where one is named, with any settings, short.

    One made of ``parts`` takes long, and is tried where it is asked for: see the test that it is its parts.
    """
    room = [kind for _, kind in sorted(members("Attack").items()) if knows(kind, norm)]
    room = [kind for kind in room if (hasattr(kind, having) if having else not hasattr(kind, "parts"))]
    kind = draw(st.sampled_from(room))
    changes = {}
    for name, hint in hints(kind).items():
        if name in fixed:
            changes[name] = fixed[name]
        elif name in COUNTS:
            changes[name] = draw(st.integers(3 if (name, norm) == ("steps", "l1") else 1, COUNTS[name]))
        elif hint is bool:
            changes[name] = draw(st.booleans())
        elif typing.get_origin(hint) is typing.Literal:
            changes[name] = draw(st.sampled_from(typing.get_args(hint)))
        elif name == "loss":
            changes[name] = draw(st.sampled_from(LOSSES))
        elif name in ("kappa", "step_size", "sigma"):
            changes[name] = draw(st.sampled_from([None, 0.05]))
    if "targets" in changes and type(None) in typing.get_args(hints(kind)["targets"]) and draw(st.booleans()):
        changes["targets"] = None
    threat = ThreatModel(norm=norm, eps=min(float(eps), LARGEST[norm]))
    try:
        return kind(threat=threat, **changes)
    except BadInput:  # the loss cannot be meant with the rest
        changes.pop("loss", None)
        return kind(threat=threat, **changes)


def own_radii(attack):
    """Whether examples may have radii of their own."""
    return "eps" in inspect.signature(attack.__call__).parameters


def found(attack, case):
    """Return what an attack returns; each within its own radius, where it can."""
    radii = {"eps": case.eps} if own_radii(attack) else {}
    return attack(case.model, case.x, case.y, rng=case.rng, **radii)


def succeeded(attack, case, x_adv):
    with torch.no_grad():
        right = case.model(x_adv).argmax(dim=1) == case.y
    return right if getattr(attack, "targeted", False) else ~right


# -- the allowed set, and no trace -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("norm", NORMS)
def test_contract_what_comes_back_lies_in_ball_and_box(norm, dtype):
    """In the box exactly; in the ball to one unit in the last place of 1 for each pixel, added up as the norm does."""

    @many(400)
    @given(st.data())
    def holds(data):
        case = data.draw(cases(norm, dtype))
        attack = data.draw(attacks(norm, case.eps[0]))
        clean, labels = case.x.clone(), case.y.clone()
        x_adv = found(attack, case)
        assert torch.equal(case.x, clean) and torch.equal(case.y, labels)
        assert x_adv.dtype == dtype and x_adv.shape == clean.shape and not x_adv.requires_grad
        assert float(x_adv.min()) >= 0 and float(x_adv.max()) <= 1
        delta = (x_adv.double() - clean.double()).flatten(1)
        pixels = {"linf": 1, "l2": delta.shape[1] ** 0.5, "l1": delta.shape[1]}[norm]
        radius = case.eps.double() if own_radii(attack) else attack.threat.eps
        far = torch.linalg.vector_norm(delta, ORDER[norm], dim=1) - radius
        assert float(far.max()) <= torch.finfo(dtype).eps * pixels

    holds()


def trace(model):
    """Return all that an attack must leave as it is, ready to be compared."""
    tensors = {f"weight {name}": (p, p.grad) for name, p in model.named_parameters()}
    tensors |= {f"buffer {name}": (b, None) for name, b in model.named_buffers()}
    bits = {name: [None if t is None else (t.dtype, t.tolist()) for t in pair] for name, pair in tensors.items()}
    states = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()
    modes = [module.training for module in model.modules()], [p.requires_grad for p in model.parameters()]
    return bits, states, modes, torch.is_grad_enabled(), torch.get_default_dtype()


@pytest.mark.parametrize("norm", NORMS)
def test_contract_no_trace_is_left(norm):
    """On a network with running statistics and dropout, its modules in any modes, some weights frozen."""

    @many(200)
    @given(st.data())
    def holds(data):
        case = data.draw(cases(norm, least=2))
        attack = data.draw(attacks(norm, case.eps[0]))
        classes = case.model(case.x).shape[1]
        model = nn.Sequential(copy.deepcopy(case.model), nn.BatchNorm1d(classes), nn.Dropout(0.3)).double()
        for module in model.modules():
            module.training = data.draw(st.booleans())
        for parameter in model.parameters():
            parameter.requires_grad_(data.draw(st.booleans()))
            parameter.grad = torch.full_like(parameter, 2.0) if data.draw(st.booleans()) else None
        with torch.set_grad_enabled(data.draw(st.booleans())):
            seen = trace(model)
            found(attack, replace(case, model=model))
            assert trace(model) == seen

    holds()


# -- company ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_contract_an_example_gets_the_same_bits_in_any_company_and_order(norm):
    @many(200)
    @given(st.data())
    def holds(data):
        case = data.draw(cases(norm, least=2))
        attack = data.draw(attacks(norm, case.eps[0]))
        x_adv = found(attack, case)
        turned = torch.tensor(data.draw(st.permutations(range(len(case.x)))))
        for rows in (turned, turned[: len(turned) // 2], torch.cat([turned[:1], turned])):
            assert torch.equal(found(attack, case.take(rows)), x_adv[rows])

    holds()


@pytest.mark.parametrize("norm", NORMS)
def test_contract_a_radius_of_its_own_is_as_that_radius_for_all(norm):
    """But for the last bit: a number over a tensor is not rounded as a tensor over a tensor."""

    @many(200)
    @given(st.data())
    def holds(data):
        case = data.draw(cases(norm))
        attack = data.draw(attacks(norm))
        assume(own_radii(attack))
        x_adv = found(attack, case)
        for row in range(len(case.x)):
            one = case.take(torch.tensor([row]))
            alone = attack.at(float(one.eps))(one.model, one.x, one.y, rng=one.rng)
            torch.testing.assert_close(alone[0], x_adv[row], rtol=0, atol=1e-9)

    holds()


# -- robust examples only become fewer -------------------------------------------------------------------------


def grows(case, weaker, stronger, *, same=True):
    """Whoever gives way to less gives way to more; the ``same`` input is found where what is more comes last."""
    less, more = found(weaker, case), found(stronger, case)
    fooled = succeeded(weaker, case, less)
    assert bool(succeeded(stronger, case, more)[fooled].all())
    assert not same or torch.equal(more[fooled], less[fooled])


SEARCHES = {"result": "misclassified", "minimum": False}
"""Searches that end with their first success: what returns the last input or the largest loss promises nothing."""


@pytest.mark.parametrize("norm", NORMS)
def test_contract_more_restarts_leave_no_more_robust(norm):
    """The numbers of a restart, of each target, are its own: of more restarts, the first are those of fewer."""

    @many(240)
    @given(st.data())
    def holds(data):
        case = data.draw(cases(norm))
        few, more = data.draw(st.sampled_from([(1, 2), (2, 3), (1, 4)]))
        attack = data.draw(attacks(norm, having="begin", restarts=few, **SEARCHES))
        several = attack.rounds(case.model(case.x).shape[1]) > few
        grows(case, attack, replace(attack, restarts=more), same=not several)

    holds()


@pytest.mark.parametrize("norm", NORMS)
def test_contract_more_steps_queries_and_targets_leave_no_more_robust(norm):
    """Where the way does not depend on how long it is to be, unlike that of APGD and of a rescaled Square.

    FAB's does not either, but its last look, at the ball's surface, is at another point.
    """

    @many(200)
    @given(st.data())
    def holds(data):
        case = data.draw(cases(norm))
        attack = data.draw(attacks(norm, having="begin", restarts=1, rescale=False, **SEARCHES))
        names = {"queries"} if hasattr(attack, "queries") else {"targets"} if hasattr(attack, "targets") else {"steps"}
        name = names.pop()
        count = getattr(attack, name)
        assume(count is not None)
        grows(case, attack, replace(attack, **{name: count + data.draw(st.integers(1, 6))}))

    holds()


@pytest.mark.parametrize("norm", NORMS)
def test_contract_autoattack_finds_what_the_first_of_its_parts_finds(norm):
    """So it fools whom any of them fools: one finds for the others' survivors what it finds for all."""

    @many(24)
    @given(st.data())
    def holds(data):
        case = data.draw(cases(norm))
        whole = data.draw(attacks(norm, having="parts"))
        wanted, left = case.x.clone(), ~succeeded(whole, case, case.x)
        for name, part in whole.parts().items():
            x_adv = found(part, replace(case, rng=case.rng.tag(name)))
            new = left & succeeded(whole, case, x_adv)
            wanted[new], left = x_adv[new], left & ~new
        assert torch.equal(found(whole, case), wanted)

    holds()


# -- linear networks, where the nearest misclassified input is known -------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_closed_form_no_attack_succeeds_where_ball_and_box_hold_no_misclassified_input(norm):
    @many(240)
    @given(st.data())
    def holds(data):
        case = data.draw(cases(norm, kinds=("linear",)))
        attack = data.draw(attacks(norm, case.eps[0]))
        assume(not getattr(attack, "targeted", False))
        (layer,) = case.model
        nearest = largest_eps(
            layer.weight.detach(), case.x.flatten(1), case.y, norm=norm, box=(0.0, 1.0), intercept=layer.bias.detach()
        )
        radius = case.eps if own_radii(attack) else torch.full_like(case.eps, attack.threat.eps)
        wrong = succeeded(attack, case, found(attack, case))
        assert not (wrong & (radius < nearest * (1 - 1e-9) - 1e-12)).any()

    holds()


@pytest.mark.parametrize("norm", NORMS)
def test_closed_form_a_larger_radius_leaves_no_more_robust_where_the_search_is_exact(norm):
    """Of two classes. Elsewhere it is no law: a larger step, or start, may lead a search past what a smaller found.

    FGSM is exact under linf. FAB is to 2 % of the radius, and under l1 to less where ties between pixels decide.
    """

    @many(104)
    @given(st.data())
    def holds(data):
        case = data.draw(cases(norm, kinds=("linear",), classes=(2, 2)))
        (layer,) = case.model
        nearest = largest_eps(
            layer.weight.detach(), case.x.flatten(1), case.y, norm=norm, box=(0.0, 1.0), intercept=layer.bias.detach()
        )
        assume(bool(torch.isfinite(nearest).all()))
        searches = [FAB(threat=ThreatModel(norm=norm, eps=0.1), steps=30)]
        searches += [FGSM(), PGD(steps=8, result="misclassified")] if norm == "linf" else []
        for attack in searches:
            close = 0.02 if isinstance(attack, FAB) else 1e-9
            share = torch.tensor([0.0, 0.5, 1 - close, 1 + close, 1.5, 4.0], dtype=torch.float64)
            rows = torch.arange(len(case.x)).repeat(len(share))
            radii = (share[:, None] * nearest).flatten().clamp(max=LARGEST[norm])
            sized = replace(case.take(rows), eps=radii)
            wrong = succeeded(attack, sized, found(attack, sized))
            assert torch.equal(wrong, (nearest[rows] == 0) | (radii > nearest[rows]))

    holds()
