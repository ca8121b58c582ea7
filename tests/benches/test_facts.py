"""The benchmark of the papers' facts: its plan, and how numbers become verdicts."""

import importlib.util
import json
import math
import sys
from dataclasses import fields, replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robustscape.config import from_plain, to_plain
from robustscape.landscape.connectivity import ConnectivityResult
from robustscape.landscape.curvature import CurvatureResult
from robustscape.landscape.curvature_levels import Along, AtEps, AtRadius
from robustscape.landscape.flatness import Estimate, FlatnessResult
from robustscape.landscape.similarity import SimilarityResult
from robustscape.landscape.slices import SliceResult
from robustscape.landscape.spectrum import SpectrumResult
from robustscape.results import load, provenance

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "benchmarks" / "checkpoints" / "cifar10-jpeg-small"


@pytest.fixture(scope="module")
def facts():
    """The benchmark as a module, its rows beside it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("facts_plan", "facts_verdicts", "facts_rows", "facts_logits", "facts"):
            spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, name, module)
            spec.loader.exec_module(module)
        yield sys.modules["facts"]


@pytest.fixture
def rows(facts):
    return facts.facts_rows


@pytest.fixture
def verdicts(facts):
    return sys.modules["facts_verdicts"]


def made_of(kind, **known):
    """A Result with the given fields; what is not given is not looked at."""
    about = provenance(
        seconds=1.0, device=torch.device("cpu"), precision="float32", seed=0, model="", data="", settings=None
    )
    known = {"attack": "PGD", "n": 10, "split": "test", "provenance": about} | known
    return kind(**{f.name: known.get(f.name) for f in fields(kind)})


def spectrum(raw, layer):
    values = np.array([[[raw], [layer]], [[2 * raw], [layer]]])
    return made_of(
        SpectrumResult,
        losses=("clean", "robust"),
        coordinates=("raw", "layer"),
        eigenvalues=values,
        converged=np.ones_like(values, dtype=bool),
        loss=np.array([0.5, 1.5]),
    )


def parabola(curvature):
    alpha = np.array([-0.5, -0.25, 0.0, 0.25, 0.5])
    loss = 1.3 + 0.7 * alpha + curvature / 2 * alpha**2
    return made_of(SliceResult, alpha=alpha, robust_loss=loss[None], robust_error=np.full((1, 5), 0.4))


def curvatures(excess, noise):
    """Results of two seeds with the given excess, for each eps one of each seed."""

    def at(value):
        known = {"value": value, "low": value, "high": value, "n": 4}
        return made_of(AtRadius, radius=0.1, held=Estimate(**known), total=Estimate(**known), excess=Estimate(**known))

    def level(number, value):
        along = made_of(Along, differences=(replace(at(value), noise=noise),))
        return made_of(AtEps, eps=0.1 * (number + 1), along=(along,))

    results = [made_of(CurvatureResult, levels=tuple(map(level, count(), line))) for line in zip(*excess, strict=True)]
    return {f"curvature/mnist-{seed}": {"curvature": result} for seed, result in enumerate(results)}


def barrier(clean, robust):
    paths = ("line", "curve 1")
    return made_of(ConnectivityResult, paths=paths, clean_barrier=np.array(clean), robust_barrier=np.array(robust))


@pytest.mark.parametrize("small", [False, True])
def test_contract_everything_measured_is_trained_here_or_committed(facts, small, monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = facts.plan(small=small)
    trained = {plan.networks / name for name in plan.runs()}
    for look in plan.looks().values():
        others = [Path(m.other) for m in look.measurements if getattr(m, "other", "")]
        for network in (look.run, *others):
            assert network in trained or (network / "checkpoints" / "last.safetensors").is_file(), network
            assert not network.is_absolute()
    for run in plan.runs().values():
        assert from_plain(to_plain(run)) == run and run.training.track == 0 and run.runtime.threads == 1


def test_contract_networks_along_eps_differ_in_eps_alone(facts):
    runs = facts.plan(small=False).runs()
    for group, names in (("mnist", ("at-0.1", "at-0.4")), ("cifar10", ("at-4", "at-12"))):
        first, second = (to_plain(runs[f"{group}/{name}-0"]) for name in names)
        for run in (first, second):
            run["objective"]["attack"]["threat"].pop("eps")
            run["evaluation"].pop("eps")
        assert first == second


def test_closed_form_the_curvature_of_a_parabola(verdicts):
    assert verdicts.slice_curvature(parabola(3.0)) == pytest.approx(3.0, rel=1e-9)


@pytest.mark.parametrize(
    ("by_eps", "verdict"),
    [
        ([[1, 2], [2, 3], [4, 5]], "holds"),
        ([[1, 2], [2, 1.9], [4, 5]], "in part"),
        ([[1, 2], [5, 6], [2, 3]], "does not hold"),
        ([[1, 1], [5, 5], [4.9, 4.9]], "does not hold"),
        ([[3, 3], [2.9, 2.9], [2.8, 2.8]], "does not hold"),
    ],
)
def test_closed_form_verdicts_on_growth(verdicts, by_eps, verdict):
    assert verdicts.grows(by_eps) == verdict


def test_closed_form_verdicts_on_barriers(verdicts):
    assert verdicts.higher([3.0, 4.0], [1.0, 2.9]) == "holds"
    assert verdicts.higher([2.0, 4.0], [1.0, 2.9]) == "in part"
    assert verdicts.higher([1.0, 2.0], [1.0, 2.9]) == "does not hold"


def test_closed_form_verdicts_on_noise(verdicts):
    assert verdicts.above([3.0, 4.0], [2.0, 3.5]) == "holds"
    assert verdicts.above([3.0, 4.0], [3.5, 1.0]) == "in part"
    assert verdicts.above([3.0, 4.0], [3.5, 5.0]) == "does not hold"


@pytest.mark.parametrize(
    ("networks", "verdict"),
    [
        ([(0.5, 0.2, 0.1), (0.4, 0.1, 0.1)], "holds"),
        ([(0.9, 0.2, 0.1), (0.4, 0.1, 0.2)], "in part"),  # within two standard errors
        ([(0.9, 0.0, 0.1), (0.4, 0.3, 0.1)], "in part"),  # more than half along the random one
        ([(0.5, 0.3, 0.01), (0.4, 0.3, 0.01)], "does not hold"),
    ],
)
def test_closed_form_verdicts_on_similarity(verdicts, networks, verdict):
    names = ("fall along the eigenvector", "fall along a random direction", "standard error")
    assert verdicts.turns([dict(zip(names, numbers, strict=True)) for numbers in networks]) == verdict


@pytest.mark.parametrize(
    ("flatness", "eigenvalue", "verdict"),
    [
        ([[1.0, 1.001], [1.0, 1.0]], [[2.0, 4.0], [3.5, 2.0]], "holds"),
        ([[1.0, 1.0], [1.0, 1.0]], [[2.0, 2.0], [5.0, 2.0]], "in part"),
        ([[1.0, 1.0], [1.0, 1.0]], [[2.0, 2.0], [3.1, 2.0]], "does not hold"),
        ([[1.0, 1.1], [1.0, 1.0]], [[2.0, 2.0], [5.0, 5.0]], "does not hold"),
    ],
)
def test_closed_form_verdicts_on_rescaling(verdicts, flatness, eigenvalue, verdict):
    assert verdicts.rescales(flatness, eigenvalue) == verdict


@pytest.mark.parametrize(
    ("excess", "verdict"),
    [
        ([[2, 3], [4, 5], [6, 7]], "holds"),
        ([[2, 3], [4, 2.9], [6, 7]], "in part"),  # one seed falls
        ([[0.5, 3], [4, 5], [6, 7]], "in part"),  # one seed within its noise
        ([[2, 3], [6, 7], [4, 5]], "does not hold"),
        ([[0.2, 0.3], [4, 5], [6, 7]], "does not hold"),  # the means too
        ([[1, 1], [1, 1], [1, 1]], "does not hold"),
    ],
)
def test_closed_form_curvature_is_to_exceed_its_noise_and_to_grow(rows, excess, verdict):
    row = rows._curvature(curvatures(excess, noise=1.0), "mnist", "here")
    assert row["verdict"] == verdict and row["where"] == "here"
    assert row["numbers"]["eps 0.1"]["excess"]["each"] == excess[0]
    assert (row["numbers"]["eps 0.1"]["excess is above its noise"] == "holds") == (min(excess[0]) > 1)


def test_closed_form_rows_along_eps(rows):
    found = {
        f"cifar10/{kind}-{seed}": {"spectrum": spectrum(raw + seed, 9.0 - raw), "slices": parabola(raw)}
        for kind, raw in (("natural", 1.0), ("at-12", 4.0), ("at-4", 2.5))
        for seed in (0, 1)
    }

    def along(found):
        return [*rows._eigenvalues(found, "cifar10"), rows._slices(found, "cifar10")]

    made = {row["claim"]: row for row in along(found)}
    raw = made["the largest eigenvalue of the robust loss grows with eps"]
    assert raw["verdict"] == "holds" and raw["n"] == [10] and raw["attacks"] == ["PGD"]
    assert [raw["numbers"][f"eps {eps}"]["each"] for eps in (0, 4, 12)] == [[2, 4], [5, 7], [8, 10]]
    relative = "the largest eigenvalue of the clean loss, relative to the layers' norms, grows with eps"
    assert made[relative]["verdict"] == "does not hold"
    assert made["slices of the robust loss curve more the larger eps is"]["verdict"] == "holds"
    on_train = rows._eigenvalues({name.replace("/", "-train/"): of for name, of in found.items()}, "cifar10-train")
    assert [row["verdict"] for row in on_train] == ["holds", "holds", "does not hold", "does not hold"]
    assert {row["where"].split(", ")[-1] for row in on_train} == {"training images"}
    assert on_train[0]["numbers"]["loss there"]["eps 4"] == [1.5, 1.5]
    del found["cifar10/at-4-1"]["slices"]
    made = {row["claim"]: row for row in along(found)}
    assert made["slices of the robust loss curve more the larger eps is"]["verdict"] == "not measured"


def test_closed_form_similarity_is_read_where_the_network_still_works(rows, verdicts):
    error = np.array([[[0.3, 0.3]] * 3, [[0.4, 0.4], [0.55, 0.6], [0.95, 0.9]]])  # at w: 0.3, half is left to 0.65
    result = made_of(
        SimilarityResult,
        position=np.array([0.01, 0.1, 1.0]),
        similarity=np.array([[0.8, 0.79, 0.7], [0.7, 0.5, 0.1]]),
        standard_error=np.full((2, 3), 0.01),
        robust_error=error,
        same_weights=0.81,
        same_weights_robust_error=0.3,
    )
    found = verdicts.falls(result)
    assert found["position"] == 0.1 and found["at w"] == 0.81
    assert found["fall along the eigenvector"] == pytest.approx(0.31)
    assert found["fall along a random direction"] == pytest.approx(0.02)
    assert found["standard error"] == pytest.approx(0.01 * math.sqrt(2))
    row = rows._similarity({"cifar10/at-8-0": {"similarity": result}}, "cifar10")
    assert row["verdict"] == "holds"


def test_contract_the_committed_networks_under_awp_are_flatter(rows):
    flat = {
        kind: [load(RUNS / f"{kind}{tail}" / "results" / "flatness-last.json") for tail in ("", "-1", "-2")]
        for kind in ("at", "at-awp")
    }
    row = rows._awp(flat)
    assert row["verdict"] == "holds" and len(row["numbers"]["AT-AWP minus AT"]) == 3
    assert row["numbers"]["at"]["low"] > row["numbers"]["at-awp"]["high"]
    assert row["where"] == "CIFAR-10 (JPEG), PreActResNet-18(16) after 30 epochs" and "interval" in row["holds_where"]
    backwards = {"at": flat["at-awp"], "at-awp": flat["at"]}
    assert rows._awp(backwards)["verdict"] == "does not hold"


def test_closed_form_logits_of_a_linear_network(facts):
    """Its logits have no curvature of their own, so the Gauss-Newton part is the Hessian: tr S (1 + |x|^2)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 3)).double()
    x, y = torch.rand(4, 1, 2, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    found = sys.modules["facts_logits"].curvature_of(model, x, y)
    p, slope = model(x).softmax(dim=1).detach(), 1 + x.square().sum(dim=(1, 2, 3))
    spread = 1 - p.square().sum(dim=1)
    assert found["spread"] == pytest.approx(float(spread.mean()))
    assert found["Gauss-Newton trace"] == pytest.approx(float((spread * slope).mean()))
    assert found["squared norm of the logits' gradients"] == pytest.approx(2 * float(slope.mean()))
    assert found["robust loss"] == pytest.approx(nn.functional.cross_entropy(model(x), y).item())


def test_contract_the_committed_facts_say_their_rules_and_are_of_every_result(facts):
    told = json.loads((ROOT / "benchmarks" / "results" / "facts.json").read_text())
    assert not told["missing"] and all(row["holds_where"] and row["n"] for row in told["facts"])
    flat = load(RUNS / "at-awp" / "results" / "flatness-last.json").provenance
    assert flat.commit in told["commits"] and flat.device in told["devices"] and flat.precision in told["precisions"]
    sums = facts.provenance_of([made_of(SliceResult), made_of(SliceResult)])
    assert sums["measuring_seconds"] == 2 and sums["measuring_seeds"] == [0]


def test_closed_form_eigenvalues_between_methods(rows):
    kinds = {"rescaled/cifar10-trained": 5.0, "methods/cifar10-trades": 2.0, "methods/cifar10-at-awp": 1.0}
    found = {
        f"{name}-{seed}": {"spectrum": spectrum(raw + seed, 1.0)} for name, raw in kinds.items() for seed in (0, 1)
    }
    raw, relative = rows._between_methods(found)
    assert raw["verdict"] == "holds" and raw["numbers"]["trades"]["each"] == [4.0, 6.0]
    assert relative["verdict"] == "does not hold" and relative["numbers"]["trades"]["each"] == [1.0, 1.0]
    del found["methods/cifar10-trades-1"]["spectrum"]
    assert [row["verdict"] for row in rows._between_methods(found)] == ["not measured"] * 2


def test_closed_form_each_path_has_a_barrier_of_its_own(rows):
    found = {
        "barrier/mnist-natural": {"connectivity": barrier([1.0, 0.2], [9.0, 9.0])},
        "barrier/mnist-at-0.1": {"connectivity": barrier([9.0, 0.0], [0.9, 0.3])},
        "barrier/mnist-at-0.2": {"connectivity": barrier([9.0, 0.0], [0.8, 0.5])},
    }
    line, curve = rows._barriers(found, "mnist", "here")
    assert line["claim"].endswith("straight line") and line["verdict"] == "does not hold"
    assert curve["claim"].endswith("curve") and curve["verdict"] == "holds"
    assert curve["numbers"]["natural, clean loss"]["each"] == [0.2]
    assert curve["numbers"]["adversarial, robust loss"]["barrier/mnist-at-0.2"] == 0.5
    found["barrier/mnist-natural"] = {}
    assert [row["verdict"] for row in rows._barriers(found, "mnist", "here")] == ["not measured"] * 2


def test_closed_form_rescaling(rows):
    def flatness(value):
        known = {"value": value, "low": value, "high": value, "n": 4}
        return made_of(FlatnessResult, robust=Estimate(**known))

    pair = {
        "rescaled/cifar10-trained-0": {"flatness": flatness(0.5), "spectrum": spectrum(10.0, 7.0)},
        "rescaled/cifar10-both-0": {"flatness": flatness(0.5001), "spectrum": spectrum(39.0, 7.0)},
    }
    row = rows._rescaling(pair)
    assert row["verdict"] == "holds"
    ratios = row["numbers"]["rescaled over trained"]["both"]
    assert ratios["largest eigenvalue, raw, robust loss"]["each"] == pytest.approx([3.9])
    assert ratios["largest eigenvalue, layer, robust loss"]["each"] == pytest.approx([1.0])
    pair["rescaled/cifar10-both-0"]["flatness"] = flatness(0.6)
    assert rows._rescaling(pair)["verdict"] == "does not hold"


@pytest.mark.parametrize(("how", "shares"), [("normalisation", (0.5, 1)), ("layers", (1, 0.5)), ("both", (0.5, 0.5))])
def test_closed_form_rescaled_weights_compute_the_same(facts, how, shares):
    torch.manual_seed(0)
    parts = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Flatten())
    model, x = nn.Sequential(*parts).eval(), torch.rand(5, 1, 8, 8)
    made = facts.rescaled(model, x, how)
    assert torch.allclose(made(x), model(x), rtol=1e-5, atol=1e-6)
    for layer, share in zip((0, 3), shares, strict=True):
        assert torch.equal(made[layer].weight, model[layer].weight * share)
