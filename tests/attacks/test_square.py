"""Square against the authors' code, closed forms and itself in other company."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustscape.attacks._squares import bump, gathered, gathered_as_code, masks, placed, plan, tiled, tiling
from robustscape.attacks.queue import queued
from robustscape.attacks.reference import reference
from robustscape.attacks.square import Square, _drawn
from robustscape.attacks.threat import ThreatModel
from robustscape.attacks.walk import Rows, Walk
from robustscape.streams import Streams, numbered
from robustscape.types import BadInput, Diverged

EPS = {"linf": 0.03, "l2": 0.5, "l1": 4.0}
AUTHORS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def _network(kind: str, image: tuple[int, int, int] = (3, 16, 16), classes: int = 4) -> nn.Module:
    channels, height, width = image
    size = channels * height * width
    with torch.random.fork_rng():
        torch.manual_seed(4)
        if kind == "linear":
            return nn.Sequential(nn.Flatten(), nn.Linear(size, classes))
        if kind == "dense":
            return nn.Sequential(nn.Flatten(), nn.Linear(size, 24), nn.Tanh(), nn.Linear(24, classes))
        return nn.Sequential(nn.Conv2d(channels, 6, 3, stride=2), nn.ReLU(), nn.Flatten(),
                             nn.Linear(6 * ((height - 1) // 2) * ((width - 1) // 2), classes))  # fmt: skip


def _images(model: nn.Module, n: int = 20, image=(3, 16, 16), dtype=torch.float32):
    """Images with pixels at the edge of the box, and the labels that the model gives nearly all of them."""
    x = (torch.rand(n, *image, generator=torch.Generator().manual_seed(5), dtype=dtype) * 1.2 - 0.1).clamp(0, 1)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
        y[::9] = (y[::9] + 1) % model(x).shape[1]
    return x, y


def _margin(model, x, y):
    with torch.no_grad():
        logits = model(x)
    return logits.gather(1, y[:, None])[:, 0] - logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)


# -- the authors' code -------------------------------------------------------------------------------------


def _authors(model, attack: Square, seed: int):
    from pyautoattack.square import SquareAttack

    threat = attack.threat
    return SquareAttack(model, norm=AUTHORS[threat.norm], n_queries=attack.queries, eps=threat.eps, p_init=attack.p,
                        n_restarts=attack.restarts, seed=seed, targeted=attack.targeted,
                        resc_schedule=attack.rescale, device="cpu")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linear", "dense", "convolutional"])
@pytest.mark.parametrize(("norm", "rescale"), [("linf", False), ("l2", False), ("linf", True), ("l2", True)])
def test_reference_iterates_are_those_of_the_authors_code(norm, rescale, kind):
    model = _network(kind)
    x, y = _images(model)
    attack = Square(threat=ThreatModel(norm=norm, eps=EPS[norm]), queries=60, restarts=2, rescale=rescale)
    with torch.random.fork_rng():
        theirs = _authors(model, attack, seed=3).perturb(x, y)
    ours = reference(attack, model, x, y, seed=3)
    right, broken = _margin(model, x, y) > 0, _margin(model, theirs, y) <= 0
    assert 0 < int((right & broken).sum()) < int(right.sum())
    assert torch.equal(_margin(model, ours, y) <= 0, broken)
    # The same operations in the same order; l2 leaves room for sums that another processor orders otherwise.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0 if norm == "linf" else 1e-6)


def _walked(attack: Square, model, x, y, seed: int):
    """One restart in the mode of reference, whoever is right; the state at its end."""
    rows = Rows(x=x, y=y, eps=torch.full((len(x),), attack.threat.eps), index=torch.arange(len(x)),
                logits=model(x), round=torch.zeros_like(y))  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    state = attack.begin(rows, generator)
    while not bool(state["over"].all()):
        state = attack.step(model, state, generator)
    return state


def _theirs(attack: Square, model, x, y, seed: int):
    authors = _authors(model, attack, seed)
    authors.init_hyperparam(x)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return authors.attack_single_run(x, y)[1]


@pytest.mark.parametrize(("norm", "targeted"), [("linf", False), ("linf", True), ("l2", False), ("l2", True)])
def test_reference_the_best_inputs_of_failures_are_equal_too(norm, targeted):
    model = _network("dense")
    x, y = _images(model)
    wanted = model(x).topk(2, dim=1).indices[:, 1] if targeted else y
    left = (model(x).argmax(dim=1) == wanted) != targeted
    x, wanted = x[left], wanted[left]
    attack = Square(threat=ThreatModel(norm=norm, eps=EPS[norm]), queries=60, targeted=targeted)
    state = _walked(attack, model, x, wanted, seed=7)
    theirs = _theirs(attack, model, x, wanted, seed=7)
    torch.testing.assert_close(state["x_adv"], theirs, rtol=0, atol=0 if norm == "linf" else 1e-6)
    assert torch.equal(state["wrong"], (model(theirs).argmax(dim=1) == wanted) == targeted)
    assert 0 < int(state["wrong"].sum()) < len(x)


def test_reference_l1_begins_as_the_authors_code():
    """Their projection onto ball and box is in float32, ours is exact: later iterates go apart by rounding."""
    model = _network("dense")
    x, y = _images(model)
    attack = Square(threat=ThreatModel(norm="l1", eps=EPS["l1"]), queries=3)
    found = _walked(attack, model, x, y, seed=7)["x_adv"]
    torch.testing.assert_close(found, _theirs(attack, model, x, y, seed=7), rtol=0, atol=1e-5)


# -- windows and bumps -------------------------------------------------------------------------------------


def test_closed_form_sides_of_windows_follow_the_published_schedule():
    """For 32 x 32 pixels, p = 0.8: as computed by hand from the authors' table."""

    def made(norm, rescaled_to=None):
        return plan(height=32, width=32, norm=norm, p=0.8, rescaled_to=rescaled_to, dtype=torch.float32,
                    device=torch.device("cpu"))  # fmt: skip

    assert made("linf").sides.tolist()[:8] == [29, 20, 14, 10, 7, 5, 4, 3]
    assert made("l2").sides.tolist()[:8] == [29, 21, 15, 11, 7, 5, 5, 3]
    assert made("linf").after.tolist() == [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]
    assert made("linf", 5000).after.tolist() == [5, 25, 100, 250, 500, 1000, 2000, 3000, 4000]


@pytest.mark.parametrize(("height", "width"), [(5, 9), (8, 3), (7, 7)])
def test_contract_windows_reach_every_place_and_stay_inside(height, width):
    x, n = torch.zeros(4000, 2, height, width), 4000
    side = torch.arange(n) % 3 + 1
    places = torch.stack([height + 1 - side, width + 1 - side], dim=1)
    corner, flip, sign = _drawn(numbered(x, "windows"), places, x)
    assert bool((corner >= 0).all()) and bool((corner < places[:, None]).all())
    window = masks(corner[:, 0], side, x)
    assert torch.equal(window.sum(dim=(1, 2, 3)).long(), side**2)
    assert bool((window.sum(dim=0) > 0).all())
    assert set(sign.flatten().tolist()) == {-1, 1} and abs(float(sign.mean())) < 0.05
    assert abs(float(flip.double().mean()) - 0.5) < 0.05
    k = 17
    row, column, length = *corner[k, 0].tolist(), int(side[k])
    expected = torch.zeros(height, width)
    expected[row : row + length, column : column + length] = 1
    assert torch.equal(window[k, 0], expected)


@pytest.mark.parametrize(("norm", "order"), [("l2", 2), ("l1", 1)])
def test_closed_form_bumps_are_a_pyramid_above_its_negative(norm, order):
    for side in (2, 3, 5, 8):
        one = bump(side, norm, torch.float64)
        assert one.shape == (side, side)
        assert bool((one[: side // 2] > 0).all()) and bool((one[side // 2 :] < 0).all())
        assert float(torch.linalg.vector_norm(one, ord=order)) == pytest.approx(1)
        assert torch.allclose(one, one.flip(1)) or side % 2 == 0
    # 3 x 3: boxes around (0, 1) of 1 x 3 pixels, around (1, 1) of 2 x 3: 1 more in the middle, 1/4 (1/16) everywhere.
    outer = 1 / 4 if norm == "l2" else 1 / 16
    assert float(one[0, 0]) > 0
    three = bump(3, norm, torch.float64)
    assert float(three[0, 1] / three[0, 0]) == pytest.approx(1 / outer + 1)


@pytest.mark.parametrize(("height", "width"), [(5, 9), (12, 7), (3, 4)])
def test_closed_form_placed_and_tiled_bumps_are_where_they_belong(height, width):
    made = plan(height=height, width=width, norm="l2", p=0.8, rescaled_to=None, dtype=torch.float64,
                device=torch.device("cpu"))  # fmt: skip
    for level, side in ((0, int(made.sides[0])), (9, int(made.sides[9]))):
        for turned in (False, True):
            corner = torch.tensor([[height - side, width - side], [0, 0]])
            which = torch.tensor([level + 10 * turned] * 2)
            found = placed(made.bumps, which, corner, height, width)[:, 0]
            one = bump(side, "l2", torch.float64)
            one = one.T if turned else one
            assert torch.equal(found[0, height - side :, width - side :], one)
            assert torch.equal(found[1, :side, :side], one)
            assert torch.allclose(found.pow(2).sum(dim=(1, 2)), torch.ones(2, dtype=torch.float64))
    side, down, across = tiling(height, width)
    sign = torch.ones(2, 3, down, across, dtype=torch.float64)
    image = tiled(side, sign, torch.zeros(1, down, across, dtype=torch.bool), height, width, "l2")
    assert image.shape == (2, 3, height, width)
    assert float(image[1, 2].pow(2).sum()) == pytest.approx(down * across)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_closed_form_gathering_moves_the_mass_and_spends_what_is_left(norm):
    generator = torch.Generator().manual_seed(0)
    delta = torch.randn(3, 2, 9, 8, generator=generator, dtype=torch.float64) * 0.01
    eps, corner = torch.tensor([0.4, 0.01, 0.3]).double().view(-1, 1, 1, 1), torch.tensor([[2, 1]]).expand(3, -1)
    made = plan(height=9, width=8, norm=norm, p=0.3, rescaled_to=None, dtype=torch.float64,
                device=torch.device("cpu"))  # fmt: skip
    side = made.sides[:1].expand(3)
    first, second = masks(corner, side, delta), masks(corner + 2, side, delta)
    bumps = placed(made.bumps, torch.zeros_like(side), corner, 9, 8)
    sign = torch.tensor([1.0, -1.0]).double().view(1, 2, 1, 1).expand(3, -1, -1, -1)
    found = gathered(delta.clone(), eps, bumps, sign, first, second, norm)
    size = (lambda z: z**2) if norm == "l2" else torch.abs
    both = torch.maximum(first, second)
    assert torch.equal(found * (1 - both), delta * (1 - both))
    assert not bool((found * both * (1 - first)).any())
    power = 2 if norm == "l2" else 1
    lack = (eps**power - size(delta).sum(dim=(1, 2, 3), keepdim=True)).clamp(min=0)
    mass = lack / 2 + (size(delta) * both).sum(dim=(2, 3), keepdim=True)
    mass = mass * (
        1 if norm == "l2" else 2
    )  # the authors' l1 gives every channel the mass of all; it is then projected
    torch.testing.assert_close((size(found) * first).sum(dim=(2, 3), keepdim=True), mass)
    again = gathered_as_code(delta, eps, bumps, sign, first, second, norm)
    torch.testing.assert_close(found, again, rtol=0, atol=1e-14)


# -- closed forms ------------------------------------------------------------------------------------------


def _two(image=(1, 4, 4), bias=50.0):
    """A linear model of two classes that never errs, float64."""
    model = _network("linear", image, classes=2).double()
    model[1].bias.data = torch.tensor([bias, 0.0], dtype=torch.float64)
    return model


def test_closed_form_single_pixels_find_the_exact_adversary_of_two_classes_under_linf():
    model = _two()
    x = 0.2 + 0.6 * torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.zeros(3, dtype=torch.int64)
    x_adv = Square(threat=ThreatModel(eps=0.1), queries=600, rescale=True)(model, x, y)
    w = (model[1].weight[0] - model[1].weight[1]).detach()
    torch.testing.assert_close(_margin(model, x_adv, y), _margin(model, x, y) - 0.1 * w.abs().sum())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_closed_form_more_queries_come_nearer_to_the_exact_adversary_and_never_pass_it(norm):
    model = _two((2, 6, 5))
    x = 0.3 + 0.4 * torch.rand(4, 2, 6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.zeros(4, dtype=torch.int64)
    eps = {"linf": 0.05, "l2": 0.2, "l1": 0.5}[norm]
    w = (model[1].weight[0] - model[1].weight[1]).detach()
    dual = {"linf": 1, "l2": 2, "l1": torch.inf}[norm]
    most = float(eps * torch.linalg.vector_norm(w, ord=dual))
    shares = []
    for queries in (1, 20, 400):
        x_adv = Square(threat=ThreatModel(norm=norm, eps=eps), queries=queries, rescale=True)(model, x, y)
        shares.append((_margin(model, x, y) - _margin(model, x_adv, y)) / most)
        order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
        length = torch.linalg.vector_norm((x_adv - x).flatten(1), ord=order, dim=1)
        assert bool((length <= eps + 1e-12).all())
        if norm != "l1":  # far from the box nothing is cut, and nothing of the ball is left unused
            torch.testing.assert_close(length, torch.full_like(length, eps))
    assert bool((shares[0] < shares[1]).all()) and bool((shares[1] < shares[2]).all())
    assert bool((shares[2] <= 1 + 1e-12).all()) and float(shares[2].min()) > 0.4


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("image", [(1, 9, 6), (3, 4, 11), (1, 1, 7), (2, 3, 3)])
def test_contract_images_of_any_shape_stay_inside_ball_and_box(norm, image):
    model = _network("linear", image, classes=3)
    x, y = _images(model, 6, image)
    threat = ThreatModel(norm=norm, eps=EPS[norm])
    x_adv = Square(threat=threat, queries=25)(model, x, y)
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    length = torch.linalg.vector_norm((x_adv - x).double().flatten(1), ord=order, dim=1)
    assert float(length.max()) <= threat.eps + 1e-6
    assert float(x_adv.min()) >= 0 and float(x_adv.max()) <= 1
    assert float(length.max()) > 0


# -- company, radii, targets -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_contract_what_an_example_gets_does_not_depend_on_its_company(norm):
    """In a queue of three places, examples enter at different times and stand at different steps and restarts."""
    model = _network("dense", (2, 6, 7), 3).double()
    x, y = _images(model, 8, (2, 6, 7), torch.float64)
    eps = {"linf": 0.06, "l2": 0.4, "l1": 1.0}[norm]
    attack = Square(threat=ThreatModel(norm=norm, eps=eps), queries=30, restarts=2)
    rng, index = Streams(2, ("company",)), torch.arange(40, 48)
    left = (_margin(model, x, y) > 0).nonzero().flatten()
    rows = Rows(x=x, y=y, eps=torch.full((8,), eps, dtype=torch.float64), index=index, logits=model(x),
                round=torch.zeros_like(y)).take(left)  # fmt: skip
    found, steps = x.clone(), {}
    for part in queued(attack, model, rows, rng, width=3):
        found[left[part.rows]] = part.x_adv
        steps |= dict(zip(part.rows.tolist(), part.steps.tolist(), strict=True))
    alone = torch.cat([attack(model, x[k : k + 1], y[k : k + 1], rng=rng.of(index[k : k + 1])) for k in range(8)])
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-12)
    assert max(steps.values()) == 60 and min(steps.values()) < 30


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_contract_a_radius_for_each_example_is_as_that_radius_alone(norm):
    model = _network("dense", (2, 6, 7), 3).double()
    x, y = _images(model, 5, (2, 6, 7), torch.float64)
    eps = torch.tensor([0.0, 0.02, 0.3, 0.1, 0.05], dtype=torch.float64)
    attack, rng = Square(threat=ThreatModel(norm=norm), queries=20), numbered(x, "radii")
    together = attack(model, x, y, rng=rng, eps=eps)
    for k in range(5):
        one = slice(k, k + 1)
        alone = attack.at(float(eps[k]))(model, x[one], y[one], rng=rng.of(torch.tensor([k])))
        torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-12)
    assert torch.equal(together[0], x[0])


def test_contract_a_radius_of_zero_takes_one_query():
    asked = []

    class Counted(nn.Module):
        def forward(self, x):
            asked.append(len(x))
            return torch.tensor([[1.0, 0.0]]).repeat(len(x), 1)

    x = torch.rand(3, 1, 4, 4)
    assert torch.equal(Square().at(0.0)(Counted(), x, torch.zeros(3, dtype=torch.int64)), x)
    assert asked == [3, 3]
    asked.clear()
    Square(queries=7)(Counted(), x, torch.zeros(3, dtype=torch.int64))
    # The clean inputs once, then as many as were allowed, but for those that every example knows the answer of.
    assert 3 <= len(asked) <= 8 and set(asked) == {3}


@pytest.mark.parametrize("classes", [2, 5])
def test_contract_targeted_search_ends_at_the_wanted_class(classes):
    model = _network("dense", (1, 8, 8), classes)
    x, _ = _images(model, 16, (1, 8, 8))
    wanted = model(x).topk(2, dim=1).indices[:, 1]
    attack = Square(threat=ThreatModel(eps=0.1), queries=80, targeted=True)
    x_adv = attack(model, x, wanted)
    there = model(x_adv).argmax(dim=1) == wanted
    assert int(there.sum()) > 2
    loss = nn.functional.cross_entropy
    assert bool((loss(model(x_adv), wanted, reduction="none") < loss(model(x), wanted, reduction="none")).all())


def test_contract_the_first_success_stays():
    model = _network("dense", (1, 8, 8), 3)
    x, y = _images(model, 12, (1, 8, 8))
    y = model(x).argmax(dim=1)
    attack, rng = Square(threat=ThreatModel(eps=0.15), queries=40), Streams(0, ("first",))
    rows = Rows(x=x, y=y, eps=torch.full((12,), 0.15), index=torch.arange(12), logits=model(x),
                round=torch.zeros_like(y))  # fmt: skip
    state, first = attack.begin(rows, rng), {}
    for _ in range(40):
        state = attack.step(model, state, rng)
        for k in state["wrong"].nonzero().flatten().tolist():
            first.setdefault(k, state["x_adv"][k].clone())
    assert len(first) > 2 and bool(state["over"].all())
    for k, x_adv in first.items():
        assert torch.equal(state["x_adv"][k], x_adv)
        assert int(model(x_adv[None]).argmax()) != int(y[k])


# -- refusals ----------------------------------------------------------------------------------------------


def test_contract_refuses_what_cannot_be_meant():
    for settings, words in (
        ({"queries": 0}, "at least 1 query and 1 restart, not 0 and 1"),
        ({"restarts": 0}, "at least 1 query"),
        ({"p": 80}, "did you mean 0.8?"),
        ({"p": 0.0}, r"in \(0, 1\]"),
    ):
        with pytest.raises(BadInput, match=words):
            Square(**settings)
    with pytest.raises(BadInput, match="needs images"):
        Square()(nn.Identity(), torch.eye(2, 5), torch.tensor([0, 1]))
    with pytest.raises(BadInput, match="one label for each input"):
        Square()(_network("linear", (1, 4, 4)), torch.rand(2, 1, 4, 4), torch.rand(2, 4))


def test_contract_says_what_it_is():
    assert isinstance(Square(), Walk)
    assert Square().describe() == "Square (linf 8/255, 5000 queries, 1 restart)"
    targeted = Square(threat=ThreatModel(norm="l2", eps=0.5), queries=9, restarts=2, targeted=True)
    assert targeted.describe() == "Square (l2 0.5, 9 queries, 2 restarts, targeted)"


def test_contract_a_model_that_gives_nan_is_an_error():
    class Broken(nn.Module):
        def forward(self, x):
            clean = torch.tensor([[1.0, 0.0]]).repeat(len(x), 1)
            return clean if float(x.min()) == 0.5 == float(x.max()) else clean * torch.nan

    with pytest.raises(Diverged, match="NaN under attack"):
        Square(queries=3)(Broken(), torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, dtype=torch.int64))
