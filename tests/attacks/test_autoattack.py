"""AutoAttack: the ensemble beside the reference's, and on models where the answer is known."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from robustscape.attacks.autoattack import AutoAttack
from robustscape.attacks.reference import reference_in_turn
from robustscape.attacks.square import Square
from robustscape.attacks.threat import ThreatModel
from robustscape.streams import Streams
from robustscape.types import BadInput

STEPS, QUERIES, CLASSES = 10, 40, 5


def _network(kind):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if kind == "linear":
            return nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES)).eval()
        if kind == "perceptron":
            return nn.Sequential(nn.Flatten(), nn.Linear(192, 40), nn.Tanh(), nn.Linear(40, CLASSES)).eval()
        layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, CLASSES)).eval()


def _problem(kind, n=24):
    model = _network(kind)
    x = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        model[-1].bias -= model(x).mean(dim=0)
        y = model(x).argmax(dim=1)
    y[::8] = (y[::8] + 1) % CLASSES
    return model, x, y


def _theirs(model, x, y, norm, eps, batch):
    import pyautoattack

    judge = pyautoattack.AutoAttack(model, norm={"linf": "Linf", "l2": "L2"}[norm], eps=eps, seed=5)
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    judge.apgd.n_iter = judge.apgd_targeted.n_iter = judge.fab.n_iter = STEPS
    for apgd in (judge.apgd, judge.apgd_targeted):  # computed from the number of steps when they were made
        apgd.n_iter_2, apgd.size_decr, apgd.n_iter_min = (max(int(s * STEPS), 1) for s in (0.22, 0.03, 0.06))
    judge.square.n_queries = QUERIES
    judge.apgd_targeted.n_target_classes = judge.fab.n_target_classes = CLASSES - 1
    with torch.random.fork_rng():
        found = judge.run_standard_evaluation(x, y, batch_size=batch)
    model.zero_grad()
    return found[0] if isinstance(found, tuple) else found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linear", "perceptron", "convolutional"])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.015), ("l2", 0.12)])
def test_reference_the_standard_version_fools_the_same_images_by_the_same_inputs(kind, norm, eps):
    model, x, y = _problem(kind)
    parts = AutoAttack(threat=ThreatModel(norm=norm, eps=eps), steps=STEPS, queries=QUERIES).parts()
    own = [replace(part, rescale=False) if isinstance(part, Square) else part for part in parts.values()]
    ours = reference_in_turn(own, model, x, y, seed=5, batch=10)
    theirs = _theirs(model, x, y, norm, eps, batch=10)
    with torch.no_grad():
        fooled = [model(images).argmax(dim=1) != y for images in (ours, theirs)]
    assert torch.equal(*fooled) and 0.2 < float(fooled[0].float().mean()) < 0.95
    assert float((ours - theirs).abs().max()) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.004), ("l2", 0.04), ("l1", 0.5)])
def test_closed_form_no_more_and_hardly_fewer_than_the_exact_adversary_are_fooled(version, norm, eps):
    model, x, y = _problem("linear")
    dual = {"linf": 1, "l2": 2, "l1": torch.inf}[norm]
    x = 0.3 + 0.4 * x  # so that the box does not bind under linf; under the others it does not much
    with torch.no_grad():
        z, w = model(x), model[1].weight
        y = torch.where(torch.arange(len(x)) % 8 == 0, y, z.argmax(dim=1))
        gaps = z - z.gather(1, y[:, None])
        slopes = torch.linalg.vector_norm(w[None] - w[y][:, None], ord=dual, dim=2)
        worst = (gaps + eps * slopes).scatter(1, y[:, None], -torch.inf).amax(dim=1)
        attack = AutoAttack(version=version, threat=ThreatModel(norm=norm, eps=eps), steps=30, queries=60)
        found = model(attack(model, x, y)).argmax(dim=1) != y
    assert not bool((found & (worst < 0)).any())
    assert bool(found[worst > 0.03 * eps * slopes.amax(dim=1)].all())
    assert 0.1 < float((worst > 0).float().mean()) < 0.9


def test_contract_flags_do_not_depend_on_batches_or_company():
    model, x, y = _problem("convolutional")
    model, x = model.double(), x.double()
    index = torch.arange(len(x))
    attack = AutoAttack(threat=ThreatModel(eps=0.015), steps=STEPS, queries=QUERIES)
    found = []
    for batch, order in ((24, index), (7, index), (24, index.flip(0))):
        same = replace(attack, batch_size=batch)
        x_adv = same(model, x[order], y[order], rng=Streams(1, (), order))
        found.append((model(x_adv).argmax(dim=1) != y[order])[order.argsort()])
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_reference_targets_and_restarts_under_l1():
    from pyautoattack import AutoAttack as Authors

    theirs = Authors(_network("linear"), norm="L1", eps=1.0, version="standard", device="cpu")
    parts = AutoAttack(threat=ThreatModel(norm="l1", eps=1.0)).parts()
    assert parts["FAB-T"].targets == theirs.fab.n_target_classes == 9
    assert parts["APGD-T"].targets == theirs.apgd_targeted.n_target_classes == 5
    assert parts["APGD-CE"].restarts == theirs.apgd.n_restarts == 5


def test_contract_fewer_classes_than_targets_are_no_error():
    for classes in (2, 3, 4):
        model, x, _ = _problem("linear")
        with torch.random.fork_rng():
            torch.manual_seed(classes)
            model[1] = nn.Linear(192, classes)
        with torch.no_grad():
            model[1].bias -= model(x).mean(dim=0)
            y = model(x).argmax(dim=1)
        attack = AutoAttack(threat=ThreatModel(eps=0.05), steps=5, queries=10)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            x_adv = attack(model, x, y)
        assert [str(one.message)[:26] for one in told] == ["targeted DLR needs four lo"] * (classes < 4)
        assert float((model(x_adv).argmax(dim=1) != y).float().mean()) > 0.3


def test_contract_versions_and_numbers_that_cannot_be_meant_are_refused():
    with pytest.raises(BadInput, match="standard, plus and rand, not 'fast'"):
        AutoAttack(version="fast")  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadInput, match="queries must be at least 1, not 0"):
        AutoAttack(queries=0)
    assert AutoAttack().describe() == "AutoAttack standard (linf 8/255)"
    assert AutoAttack(steps=10).describe() == "AutoAttack standard (linf 8/255, 10 steps, 5000 queries)"


def test_closed_form_a_list_of_attacks_is_these_in_their_order():
    threat = ThreatModel(eps=0.015)
    chosen = AutoAttack(threat=threat, version=("square", "APGD-CE"), steps=STEPS, queries=QUERIES)
    standard = AutoAttack(threat=threat, steps=STEPS, queries=QUERIES).parts()
    assert list(chosen.parts()) == ["Square", "APGD-CE"]
    assert all(attack == standard[name] for name, attack in chosen.parts().items())
    assert "square, apgd-ce" in chosen.describe()
    model, x, y = _problem("linear")
    names = AutoAttack(threat=threat, version=tuple(n.lower() for n in standard), steps=STEPS, queries=QUERIES)
    whole = replace(names, version="standard")
    assert torch.equal(names(model, x, y), whole(model, x, y))


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (("apgd_ce",), "did you mean apgd-ce"),
        ((), "at least one"),
        (("fab", "fab"), "once"),
        ("square", "did you mean the list"),
        ("standart", "standard, plus and rand"),
    ],
)
def test_contract_unknown_versions_are_refused(version, words):
    with pytest.raises(BadInput, match=words):
        AutoAttack(version=version)
