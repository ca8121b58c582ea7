"""APGD against AutoAttack's own code, closed forms, and what every example is promised."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from torch import nn

from robustscape.attacks._apgd import begun, ruled, windows
from robustscape.attacks.apgd import APGD
from robustscape.attacks.losses import DLR, KL, CrossEntropy, Margin, TargetedDLR
from robustscape.attacks.queue import queued
from robustscape.attacks.reference import reference
from robustscape.attacks.threat import ThreatModel, l1_norm, l2_norm
from robustscape.attacks.walk import Rows, radii
from robustscape.linear.multiclass import worst_gaps
from robustscape.streams import Streams, numbered
from robustscape.types import BadInput, Diverged

THREATS = {"linf": ThreatModel(norm="linf", eps=0.02), "l2": ThreatModel(norm="l2", eps=0.2),
           "l1": ThreatModel(norm="l1", eps=1.5)}  # fmt: skip
LOSSES = {"ce": CrossEntropy(), "dlr": DLR(), "targeted": TargetedDLR()}


def _network(kind, classes=6, dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = {
            "conv": [nn.Conv2d(3, 5, 3, padding=1), nn.Tanh(), nn.Conv2d(5, 6, 3, stride=2), nn.ReLU(), nn.Flatten(),
                     nn.Linear(54, classes)],
            "mlp": [nn.Flatten(), nn.Linear(192, 24), nn.ReLU(), nn.Linear(24, classes)],
            "linear": [nn.Flatten(), nn.Linear(192, classes)],
        }[kind]  # fmt: skip
    return nn.Sequential(*layers).to(dtype)


def _images(n, *shape, dtype=torch.float32):
    x = torch.rand(n, *(shape or (3, 8, 8)), generator=torch.Generator().manual_seed(4), dtype=dtype)
    return (1.4 * x - 0.2).clamp(0, 1)


def _labelled(model, x):
    """The model's own classes, but for every sixth image."""
    with torch.no_grad():
        y = model(x).argmax(dim=1)
        y[::6] = (y[::6] + 1) % model(x).shape[1]
    return y


def _wrong(model, x, y):
    with torch.no_grad():
        return model(x).argmax(dim=1) != y


def _authors(attack, model, x, y, *, seed):
    """What AutoAttack's own code returns."""
    from pyautoattack import autopgd_base as theirs

    norm = {"linf": "Linf", "l2": "L2", "l1": "L1"}[attack.threat.norm]
    common = dict(n_iter=attack.steps, norm=norm, n_restarts=attack.restarts, eps=attack.threat.eps, seed=seed,
                  eot_iter=attack.eot, device="cpu", use_largereps=norm == "L1",
                  logger=logging.getLogger("theirs"))  # fmt: skip
    with torch.random.fork_rng():
        if isinstance(attack.loss, TargetedDLR):
            made = theirs.APGDAttack_targeted(model, n_target_classes=attack.targets, **common)
        else:
            made = theirs.APGDAttack(model, loss="dlr" if isinstance(attack.loss, DLR) else "ce", **common)
        return made.perturb(x.clone(), y.clone())


# -- reference ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("kind", ["conv", "mlp", "linear"])
def test_reference_bit_for_bit_what_autoattack_returns(kind, norm, loss):
    model, x = _network(kind), _images(16)
    y = _labelled(model, x)
    attack = APGD(threat=THREATS[norm], steps=15, restarts=2, loss=LOSSES[loss], targets=3)
    theirs, ours = _authors(attack, model, x, y, seed=5), reference(attack, model, x, y, seed=5)
    assert torch.equal(ours, theirs)
    assert 0.1 < float(_wrong(model, ours, y).float().mean()) < 0.9  # neither all nor none


@pytest.mark.parametrize("changes", [{"steps": 100}, {"steps": 1}, {"steps": 9, "eot": 3}, {"steps": 12, "rho": 0.4}])
def test_reference_bit_for_bit_with_other_settings(changes, monkeypatch):
    model, x = _network("mlp"), _images(8)
    y = _labelled(model, x)
    attack = replace(APGD(threat=THREATS["linf"], loss=DLR()), **changes)
    if attack.rho != 0.75:  # AutoAttack's own targeted and untargeted classes both take it
        theirs = pytest.importorskip("pyautoattack.autopgd_base")
        with torch.random.fork_rng():
            made = theirs.APGDAttack(model, n_iter=attack.steps, norm="Linf", eps=attack.threat.eps, seed=2, loss="dlr",
                                     rho=attack.rho, device="cpu", logger=logging.getLogger("theirs"))  # fmt: skip
            wanted = made.perturb(x.clone(), y.clone())
    else:
        wanted = _authors(attack, model, x, y, seed=2)
    assert torch.equal(reference(attack, model, x, y, seed=2), wanted)


class _Spy(nn.Module):
    """Keeps what a model is given."""

    def __init__(self, model):
        super().__init__()
        self.model, self.seen = model, []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return self.model(x)


@pytest.mark.slow
def test_reference_the_iterates_under_l1_are_those_of_autoattack():
    """Its steps count the pixels that differ from x, roundings too: examples that begin with another count go apart."""
    ours, theirs, x = _Spy(_network("mlp")), _Spy(_network("mlp")), _images(32)
    y = _labelled(ours.model, x)
    attack = APGD(threat=THREATS["l1"], steps=40)
    _authors(attack, theirs, x, y, seed=3)
    reference(attack, ours, x, y, seed=3)
    clean = x[~_wrong(ours.model, x, y)]
    mine, yours = torch.stack(ours.seen[2:]), torch.stack(theirs.seen[1:])
    assert mine.shape == yours.shape and len(mine) == 43
    same = (mine[0] != clean).flatten(1).sum(dim=1) == (yours[0] != clean).flatten(1).sum(dim=1)
    assert int(same.sum()) >= 5
    torch.testing.assert_close(mine[:, same], yours[:, same], rtol=0, atol=2e-6)


# -- closed form -------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:targeted DLR needs four")
@pytest.mark.parametrize("box", [True, False])
@pytest.mark.parametrize(("classes", "loss"), [(2, CrossEntropy()), (3, TargetedDLR())], ids=["2-ce", "3-targeted"])
@pytest.mark.parametrize("norm", THREATS)
def test_closed_form_the_exact_robust_accuracy_of_linear_models(norm, classes, loss, box):
    """Of three classes, all are tried: the likeliest one of the clean image need not be the easiest to reach."""
    model, x = _network("linear", classes, torch.float64), _images(32, dtype=torch.float64)
    x = x if box else 0.35 + 0.3 * x
    y = _labelled(model, x)
    w, b, threat = model[1].weight.detach(), model[1].bias.detach(), THREATS[norm]
    gaps = worst_gaps(w, x.flatten(1), y, norm=norm, eps=threat.eps, box=(0.0, 1.0), intercept=b).amax(dim=1)
    with torch.no_grad():
        rise = gaps - Margin()(model, x, y)
    x_adv = APGD(threat=threat, loss=loss)(model, x, y)
    sure = gaps.abs() > (0.02 if norm == "l1" else 1e-3) * rise  # what is nearer is a matter of the last steps
    assert torch.equal(_wrong(model, x_adv, y)[sure], (gaps > 0)[sure]) and int(sure.sum()) >= 29
    assert 0.1 < float((gaps > 0).double().mean()) < 0.9


def test_closed_form_under_l1_pixels_at_the_edge_of_the_box_do_not_end_the_search():
    """A radius that one pixel can use up: where the steepest pixels have no room, another one has to move."""
    model, x = _network("linear", 2, torch.float64), _images(64, dtype=torch.float64)
    y = _labelled(model, x)
    w, b = model[1].weight.detach(), model[1].bias.detach()
    worst = worst_gaps(w, x.flatten(1), y, norm="l1", eps=0.3, box=(0.0, 1.0), intercept=b).amax(dim=1)
    x_adv = APGD(threat=ThreatModel(norm="l1", eps=0.3))(model, x, y)
    with torch.no_grad():
        clean, found = Margin()(model, x, y), Margin()(model, x_adv, y)
    left = found < 0
    missing = (worst - found) / (worst - clean)
    assert int(left.sum()) > 40
    assert float(missing[left].min()) > -1e-9 and float(missing[left].max()) < 0.02


def test_closed_form_the_step_is_looked_at_when_the_paper_says():
    """A loss that never rises halves the step at every look; one that always does, never."""
    one = torch.ones(1)
    zero, no = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool)
    assert windows(100) == (22, 3, 6) and windows(2) == (1, 1, 1)
    for rising in (False, True):
        state = {"eps": one, "step": zero, "wrong": no, "best_loss": one}
        state, looks = state | begun(state, 100), []
        for step in range(101):
            loss = one * step if rising else one
            before = float(state["size"])
            rule, back = ruled(state | {"best_loss": loss}, loss, 100, 0.75, reference=False)
            state = state | rule | {"step": state["step"] + 1}
            if bool(back):
                assert float(state["size"]) == before / 2
                looks.append(step)
        assert looks == ([] if rising else [22, 41, 57, 70, 80, 87, 93, 99])


def test_closed_form_a_step_that_was_not_halved_is_where_the_best_loss_stays():
    """From the second look on: four of five steps rise, the best loss of the first window is never reached again."""
    state = {"eps": torch.ones(1), "step": torch.zeros(1, dtype=torch.int64), "wrong": torch.zeros(1).bool()}
    state, looks = state | begun(state, 100), []
    best = torch.full((1,), -9.0)
    for step in range(101):
        loss = torch.tensor([float(step) if step <= 22 else step % 10 - 9.0])
        best = torch.maximum(best, loss)
        rule, back = ruled(state | {"best_loss": best}, loss, 100, 0.75, reference=False)
        state = state | rule | {"step": state["step"] + 1}
        looks += [step] * bool(back)
    assert looks == [41, 70, 87, 99]  # never twice in a row


# -- contract ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 9), (2, 12, 3)], ids=str)
@pytest.mark.parametrize("norm", THREATS)
def test_contract_any_shape_stays_in_ball_and_box(norm, shape):
    x = _images(9, *shape)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 4))
    y, threat = _labelled(model, x), THREATS[norm]
    for eps in (0.0, threat.eps):
        delta = APGD(threat=threat, steps=12, loss=TargetedDLR()).at(eps)(model, x, y) - x
        length = {"linf": delta.flatten(1).abs().amax(dim=1), "l2": l2_norm(delta), "l1": l1_norm(delta)}[norm]
        # What x + delta is rounded by: half a unit in the last place of each pixel.
        rounding = 6e-8 * {"linf": 1, "l2": x[0].numel() ** 0.5, "l1": x[0].numel()}[norm]
        assert float(length.max()) <= eps + rounding
        assert float((x + delta).min()) >= 0 and float((x + delta).max()) <= 1


@pytest.mark.parametrize("norm", THREATS)
@pytest.mark.parametrize("loss", LOSSES)
def test_contract_examples_at_different_steps_and_rounds_find_what_they_find_alone(norm, loss):
    model, x = _network("mlp", dtype=torch.float64), _images(12, dtype=torch.float64)
    y, zero, index = _labelled(model, x), torch.zeros(12, dtype=torch.int64), torch.arange(12)
    attack = APGD(threat=THREATS[norm], steps=10, restarts=2, targets=2, loss=LOSSES[loss])
    with torch.no_grad():
        rows = Rows(x=x, y=y, eps=radii(attack.threat, x, None), index=index, logits=model(x), round=zero)
    found = {}
    for width in (5, 1):
        parts = list(queued(attack, model, rows, Streams(1, ("q",)), width=width))
        order = torch.cat([part.rows for part in parts]).argsort()
        found[width] = [torch.cat([getattr(part, name) for part in parts])[order]
                        for name in ("wrong", "steps", "x_adv", "score", "dull")]  # fmt: skip
    assert len(set(found[5][1].tolist())) > 1  # examples left and entered at several steps
    assert all(torch.equal(a, b) for a, b in zip(found[5][:2], found[1][:2], strict=True))
    torch.testing.assert_close(found[5][2:4], found[1][2:4], rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", THREATS)
def test_contract_each_example_has_its_own_radius(norm):
    model, x = _network("mlp", dtype=torch.float64), _images(12, dtype=torch.float64)
    y, rng = _labelled(model, x), numbered(x, "r")
    eps = torch.tensor([0.0, 0.5, 1.0, 2.0], dtype=torch.float64).repeat(3) * THREATS[norm].eps
    attack = APGD(threat=THREATS[norm], steps=9)
    together = attack(model, x, y, rng=rng, eps=eps)
    assert torch.equal(together[::4], x[::4])
    for value in eps.unique().tolist():
        alone = attack.at(value)(model, x, y, rng=rng)
        torch.testing.assert_close(together[eps == value], alone[eps == value], rtol=0, atol=1e-9)


@pytest.mark.parametrize("loss", [CrossEntropy(), TargetedDLR(), Margin()], ids=["ce", "targeted", "margin"])
def test_contract_a_targeted_search_reaches_the_wanted_class(loss):
    model, x = _network("linear"), _images(12)
    with torch.no_grad():
        y = (model(x).argmax(dim=1) + 1 + torch.arange(12) % 4) % 6
    attack = APGD(threat=ThreatModel(eps=0.15), steps=40, loss=loss, targeted=True)
    x_adv = attack(model, x, y)
    assert attack.rounds(6) == 1
    assert float(_wrong(model, x_adv, y).float().mean()) < 0.2


def test_contract_targets_are_tried_from_the_likeliest_on():
    """A model of four classes where only the third likeliest class of the clean image can be reached."""

    class Model(nn.Module):
        def forward(self, x):
            first = x.flatten(1)[:, 0]
            fixed = torch.tensor([1.0, 0.9, -1.0]).expand(len(x), 3) + 0 * first[:, None]
            return torch.cat([fixed, 4 * first[:, None] - 2], dim=1)[:, [2, 0, 3, 1]]

    x, y = torch.full((1, 1, 1, 2), 0.5), torch.tensor([1])
    with torch.no_grad():
        logits = Model()(x)
    rows = Rows(
        x=x, y=y, eps=torch.full((1,), 0.3), index=torch.zeros(1).long(), logits=logits, round=torch.zeros(1).long()
    )
    attack = APGD(threat=ThreatModel(eps=0.3), loss=TargetedDLR(), steps=5, restarts=2)
    assert attack.rounds(4) == 6 and replace(attack, targets=2).rounds(4) == 4
    aims = [attack.begin(replace(rows, round=torch.tensor([k])), Streams())["aim"].tolist()[0] for k in range(6)]
    assert aims == [[1, 3], [1, 3], [1, 2], [1, 2], [1, 0], [1, 0]]
    assert bool(_wrong(Model(), attack(Model(), x, y), y).all())


@pytest.mark.parametrize(("classes", "loss", "said"), [
    (2, DLR(), "DLR needs three logits"), (2, TargetedDLR(), "DLR needs four"), (3, TargetedDLR(), "z_t - z_y"),
])  # fmt: skip
def test_contract_few_classes_work_and_are_said(classes, loss, said):
    model, x = _network("mlp", classes), _images(12)
    y = _labelled(model, x)
    attack = APGD(threat=ThreatModel(eps=0.1), steps=20, loss=loss)
    with pytest.warns(UserWarning, match=said):
        x_adv = attack(model, x, y)
    plain = replace(attack, loss=Margin())(model, x, y)
    assert torch.equal(_wrong(model, x_adv, y), _wrong(model, plain, y))
    assert said in attack.note(classes) and attack.note(10) == "" and replace(attack, loss=Margin()).note(2) == ""


@pytest.mark.parametrize(("norm", "extra"), [("linf", 1), ("l2", 1), ("l1", 3)])
def test_contract_an_example_that_holds_out_takes_the_passes_that_are_promised(norm, extra):
    model, x = _Spy(_network("mlp")), _images(4)
    with torch.no_grad():
        y = model.model(x).argmax(dim=1)
    attack = APGD(threat=THREATS[norm], steps=7, restarts=2, eot=3).at(0.0)
    attack(model, x, y)
    assert len(model.seen) == 3 + 2 * 3 * (7 + extra)  # the clean ones first


class _Flickering(nn.Module):
    """Adds 1, then takes 1 away, in turn: right only on average."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        wrong = x.flatten(1)[:, 0] - 0.9 + (-1.0) ** self.calls
        return torch.stack([0 * wrong, wrong], dim=1)


@pytest.mark.parametrize(("eot", "fooled"), [(1, True), (2, False)])
def test_closed_form_success_is_judged_by_the_mean_logits(eot, fooled):
    x, y = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    attack = APGD(threat=ThreatModel(eps=0.1), steps=4, eot=eot)
    zero = torch.zeros(1, dtype=torch.int64)
    rows = Rows(x=x, y=y, eps=torch.full((1,), 0.1), index=zero, logits=torch.tensor([[0.0, -0.4]]), round=zero)
    (settled,) = queued(attack, _Flickering(), rows, Streams(), width=1)
    assert bool(settled.wrong) is fooled
    if not fooled:
        torch.testing.assert_close(settled.x_adv[0, 0, 0, 0], torch.tensor(0.6))


def test_closed_form_who_is_attacked_is_judged_by_the_mean_logits():
    model, x = _Flickering(), torch.full((1, 1, 2, 2), 0.85)
    model.calls = 1  # so that the first pass alone is wrong
    x_adv = APGD(threat=ThreatModel(eps=0.1), steps=4, eot=2)(model, x, torch.tensor([0]))
    assert float(x_adv[0, 0, 0, 0]) > 0.9


def test_contract_an_unconfirmed_success_falls_back_to_the_largest_loss():
    model, x = _network("mlp"), _images(1)
    with torch.no_grad():
        y, zero = model(x).argmax(dim=1), torch.zeros(1, dtype=torch.int64)
        rows = Rows(x=x, y=y, eps=torch.full((1,), 0.1), index=zero, logits=model(x), round=zero)
    attack = APGD(threat=ThreatModel(eps=0.1), steps=30)
    settled = list(
        queued(attack, model, rows, Streams(), width=1, confirm=lambda x_adv, at: torch.zeros_like(at).bool())
    )
    sure = list(queued(attack, model, rows, Streams(), width=1))
    assert bool(sure[0].wrong) and int(sure[0].steps) < 31
    assert not bool(settled[0].wrong) and int(settled[0].steps) == 31
    ours, first = (CrossEntropy()(model, part[0].x_adv, y) for part in (settled, sure))
    assert float(ours.detach()) > float(first.detach())


def test_contract_what_came_nearest_is_returned_and_scored_by_its_margin():
    model, x = _network("mlp"), _images(12)
    with torch.no_grad():
        y, zero = model(x).argmax(dim=1), torch.zeros(12, dtype=torch.int64)
        rows = Rows(x=x, y=y, eps=torch.full((12,), 0.004), index=zero, logits=model(x), round=zero)
    parts = list(queued(APGD(steps=20), model, rows, Streams(), width=12))
    for part in parts:
        with torch.no_grad():
            before, after = (Margin()(model, of, y[part.rows]) for of in (x[part.rows], part.x_adv))
        torch.testing.assert_close(part.score, after)
        assert bool((after > before).all()) and not bool(part.dull.any())
    assert not all(bool(part.wrong.all()) for part in parts)


def test_contract_vanished_gradients_and_tied_logits_are_noted():
    x, zero = _images(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64)

    class Flat(nn.Module):
        def forward(self, x):
            return 0 * x.flatten(1)[:, :3] + torch.tensor([2.0, 1.0, 0.0])

    rows = Rows(x=x, y=zero, eps=torch.full((2,), 0.1), index=zero, logits=Flat()(x), round=zero)
    (settled,) = queued(APGD(steps=3), Flat(), rows, Streams(), width=2)
    assert bool(settled.dull.all()) and not bool(settled.wrong.any())


def test_contract_logits_in_low_precision_are_compared_in_the_inputs_own():
    class Low(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :3].bfloat16()

    x, y = torch.tensor([[[[0.6, 0.2, 0.1]]]]), torch.tensor([0])
    x_adv = APGD(threat=ThreatModel(eps=0.3), loss=DLR())(Low(), x, y)
    assert x_adv.dtype == torch.float32 and bool(_wrong(Low(), x_adv, y))


def test_contract_a_model_that_gives_nan_off_the_clean_input_is_an_error():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return x.flatten(1)[:, :3] * (float("nan") if self.calls > 1 else 1)

    x = torch.tensor([[[[0.6, 0.2, 0.1]]]])
    with pytest.raises(Diverged, match="NaN under attack"):
        APGD(steps=3)(Broken(), x, torch.tensor([0]))


@pytest.mark.parametrize(("wrong", "said"), [
    ({"steps": 0}, "at least 1 steps under linf"),
    ({"restarts": 0}, "1 restart, not 100 and 0"),
    ({"steps": 2, "threat": ThreatModel(norm="l1", eps=12)}, "at least 3 steps under l1"),
    ({"targets": 0}, "at least 1 target"),
    ({"eot": 0}, "1 pass"),
    ({"rho": 75}, "did you mean 0.75"),
    ({"rho": 0}, r"in \(0, 1\), not 0"),
    ({"loss": KL()}, "KL does not look at them"),
    ({"loss": DLR(), "targeted": True}, "did you mean TargetedDLR"),
])  # fmt: skip
def test_contract_bad_settings_are_refused(wrong, said):
    with pytest.raises(BadInput, match=said):
        APGD(**wrong)


def test_contract_it_says_what_it_is():
    assert APGD().describe() == "APGD-CE (linf 8/255, 100 steps, 1 restart)"
    made = APGD(threat=ThreatModel(norm="l2", eps=0.5), loss=TargetedDLR(), restarts=2, eot=20)
    assert made.describe() == "APGD-T (l2 0.5, 100 steps, up to 9 targets, 2 restarts, 20 passes a step)"
    assert replace(made, targeted=True, eot=1, loss=Margin()).describe() == (
        "targeted APGD-Margin (l2 0.5, 100 steps, 2 restarts)"
    )
