import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.judging import performance
from robustscape.evaluation.subject import subject
from robustscape.landscape.runner import measure, measuring
from robustscape.landscape.slices import Slice
from robustscape.results import load, save
from robustscape.runtime import TRUTH
from robustscape.streams import Streams
from robustscape.training.checkpoints import save_weights
from robustscape.types import BadInput, Diverged, NotApplicable


class Linear2(nn.Module):
    """Logits x W' + b of two classes."""

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.w = nn.Parameter(torch.randn(2, 9, generator=g, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.float64))

    def forward(self, x):
        return F.linear(x.flatten(1), self.w, self.b)


def looked_at():
    g = torch.Generator().manual_seed(1)
    x = 0.3 + 0.4 * torch.rand(11, 1, 3, 3, generator=g, dtype=torch.float64)
    return subject(Linear2(), x, torch.arange(11) % 2, seed=5, batch=4)


@pytest.mark.parametrize("scheme", ["filter", "layer"])
def test_closed_form_robust_slice_of_a_linear_model(scheme):
    eps = 0.05
    made = looked_at()
    attack = PGD(threat=ThreatModel(eps=eps), steps=10, result="best_loss")
    settings = Slice(attack=attack, scheme=scheme, width=0.8, positions=5, directions=2)
    found = measure(settings, made)

    w, b = made.model.w.detach(), made.model.b.detach()
    for number in range(2):
        rng = Streams(5, ("slices", number))
        dw, db = rng.tag("w").normal(2, 9, dtype=torch.float64), rng.tag("b").normal(2, dtype=torch.float64)
        if scheme == "filter":  # by hand: each row gets the norm of the weights' row, biases do not move
            dw = torch.stack([dw[k] * w[k].norm() / dw[k].norm() for k in (0, 1)])
            db = torch.zeros(2, dtype=torch.float64)
            assert found.direction_norm[number] == pytest.approx(float(w.norm()), rel=1e-12)
        else:
            dw, db = dw * w.norm() / dw.norm(), db * b.norm() / db.norm()
            assert found.direction_norm[number] == pytest.approx(float((w.norm() ** 2 + b.norm() ** 2) ** 0.5))
        for place, alpha in enumerate([-0.8, -0.4, 0.0, 0.4, 0.8]):
            moved, bias = w + alpha * dw, b + alpha * db
            difference, sign = moved[1] - moved[0], 2 * made.y - 1
            margin = sign * (made.x.flatten(1) @ difference + bias[1] - bias[0])
            worst = margin - eps * difference.abs().sum()
            assert found.clean_loss[number, place] == pytest.approx(float(F.softplus(-margin).mean()), rel=1e-10)
            assert found.robust_loss[number, place] == pytest.approx(float(F.softplus(-worst).mean()), rel=1e-10)
            assert found.clean_error[number, place] == pytest.approx(float((margin < 0).double().mean()))
            assert found.robust_error[number, place] == pytest.approx(float((worst < 0).double().mean()))


def test_closed_form_h_of_0_is_the_loss_of_the_model():
    made = looked_at()
    found = measure(Slice(attack=PGD(steps=3, result="best_loss"), directions=3, positions=3), made)
    assert found.alpha.tolist() == [-1.0, 0.0, 1.0]
    loss = F.cross_entropy(made.model(made.x), made.y).item()
    assert found.clean_loss[:, 1] == pytest.approx([loss] * 3, rel=1e-14)
    # common random starts: at 0 the robust loss is one number, to the bit, whatever the direction
    assert len(set(found.robust_loss[:, 1])) == 1
    assert (found.robust_loss >= found.clean_loss).all()


def test_closed_form_without_a_ball_robust_is_clean():
    found = measure(Slice(attack=PGD(threat=ThreatModel(eps=0), steps=1), directions=1, positions=3), looked_at())
    assert np.array_equal(found.robust_loss, found.clean_loss)
    assert np.array_equal(found.robust_error, found.clean_error)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"positions": 4}, "odd"),
        ({"width": 0.0}, "width"),
        ({"directions": 0}, "directions"),
        ({"scheme": "x"}, "filter"),
        ({"width": float("inf")}, "width"),
        ({"audit": 1.5}, "share"),
        ({"examples": "neighbours", "neighbour_steps": 0}, "did you mean"),
    ],
)
def test_contract_settings_that_cannot_be_meant_are_refused(wrong, says):
    with pytest.raises(BadInput, match=says):
        Slice(**wrong)


@pytest.mark.parametrize("scheme", ["filter", "layer"])
def test_closed_form_several_points_in_one_pass_are_what_each_is_alone(scheme):
    one = looked_at()
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(one.model.w)
        model[1].bias.copy_(one.model.b)
    made = subject(model, one.x, one.y, seed=5, batch=4)
    attack = PGD(threat=ThreatModel(eps=0.05), steps=4, result="best_loss")
    settings = Slice(attack=attack, scheme=scheme, positions=3, directions=2)
    points = settings.points()
    assert settings.at_once(made) == 6 and settings.at_once(one) == 1
    several = settings.several(made, points)
    for point, value in zip(points, several, strict=True):
        assert value == pytest.approx(settings.at(made, point), rel=1e-12)
    assert settings.several(made, points[4:5])[0] == pytest.approx(several[4], rel=1e-12)
    assert measure(settings, made).robust_loss.flatten().tolist() == [value["robust_loss"] for value in several]


def test_end_to_end_passes_of_several_points_resume_to_the_same_bits(tmp_path, monkeypatch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 5), nn.Softplus(), nn.Linear(5, 2))
    made = subject(model, looked_at().x, looked_at().y, batch=4, runtime=TRUTH)
    settings = Slice(attack=PGD(threat=ThreatModel(eps=0.05), steps=2), positions=3, directions=2)
    monkeypatch.setattr("robustscape.runtime.together._PIXELS", 4 * 4 * 9)
    assert settings.at_once(made) == 4
    whole, partial = measure(settings, made), tmp_path / "partial"
    for stop in (1, 5):
        steps = measuring(settings, made, partial=partial)
        while next(steps)[0] < stop:
            pass
        steps.close()
        assert next(measuring(settings, made, partial=partial)) == (stop, 6)
    assert np.array_equal(measure(settings, made, partial=partial).robust_loss, whole.robust_loss)


class Quadratic(nn.Module):
    """Two logits whose cross-entropy for the label 0 is 2 + w'Aw / 2 + b'w + k'x, exactly."""

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(4)
        root = torch.randn(6, 6, generator=g, dtype=torch.float64) / 6
        self.register_buffer("a", root @ root.T)
        self.register_buffer("b", torch.randn(6, generator=g, dtype=torch.float64) / 8)
        self.register_buffer("k", torch.linspace(-0.2, 0.3, 9, dtype=torch.float64))
        self.w = nn.Parameter(torch.randn(2, 3, generator=g, dtype=torch.float64))

    def loss(self, w, x):
        w = w.flatten()
        return 2 + w @ self.a @ w / 2 + self.b @ w + x.flatten(1) @ self.k

    def forward(self, x):
        q = self.loss(self.w, x)
        return torch.stack([-torch.log(torch.expm1(q)), torch.zeros_like(q)], dim=1)


def quadratic(model=None):
    x = 0.2 + 0.6 * torch.rand(7, 1, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return subject(model or Quadratic(), x, torch.zeros(7, dtype=torch.int64), seed=3, batch=4, classes=("a", "b"))


SHORT = PGD(threat=ThreatModel(eps=0.05), steps=9, result="best_loss")  # crosses the whole ball


@pytest.mark.parametrize("examples", ["retaken", "held", "neighbours"])
@pytest.mark.parametrize("along", ["random", "hessian", "clean_hessian"])
def test_closed_form_slices_of_a_quadratic_loss(along, examples):
    made = quadratic()
    settings = Slice(attack=SHORT, along=along, examples=examples, positions=5, directions=2, width=0.5, audit=1.0)
    found = measure(settings, made)
    model, w = made.model, made.model.w.detach()
    assert found.facts.curvature == ("" if along == "random" else "held")
    values, vectors = torch.linalg.eigh(model.a)
    for number in range(2):
        if along == "random":
            d = Streams(3, ("slices", number)).tag("w").normal(2, 3, dtype=torch.float64)
            d = d * (w.norm(dim=1) / d.norm(dim=1))[:, None]
        else:
            assert found.facts.eigenvalues[number] == pytest.approx(float(values[-1 - number]), rel=1e-6)
            d = vectors[:, -1 - number].view(2, 3)
        curves = []
        for sign in (1, -1):  # an eigenvector has no sign
            losses = [float(model.loss(w + sign * alpha * d, made.x).mean()) for alpha in found.alpha]
            curves.append(np.array(losses))
        tolerance = 1e-10 if along == "random" else 1e-5  # Lanczos' own tolerance
        errors = [np.abs(found.clean_loss[number] - curve).max() for curve in curves]
        assert min(errors) < tolerance
        # every pixel's slope is k: whatever the weights, the same examples are worst
        rise = 0.05 * float(model.k.abs().sum())
        np.testing.assert_allclose(found.robust_loss[number] - found.clean_loss[number], rise, rtol=0, atol=1e-10)
    if examples != "retaken":
        assert found.bias.value == pytest.approx(0, abs=1e-10) and found.bias.n == 8
        assert found.full_robust_loss[:, 2].tolist() == pytest.approx([np.nan] * 2, nan_ok=True)
    assert found.examples.partition(":")[0].split()[0] == {"neighbours": "from"}.get(examples, examples)


def curved():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = nn.Sequential(nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
        model(torch.rand(20, 1, 3, 3))
        x = torch.rand(13, 1, 3, 3, dtype=torch.float64)
    return subject(model.eval().double(), x, torch.arange(13) % 3, seed=1, batch=5)


def test_contract_examples_gone_on_with_are_never_below_held_ones():
    made = curved()
    common = {"attack": SHORT, "directions": 2, "positions": 7}
    held = measure(Slice(**common, examples="held"), made)
    some = measure(Slice(**common, examples="neighbours", neighbour_steps=2), made)
    whole = measure(Slice(**common), made)
    assert (some.robust_loss >= held.robust_loss).all() and (some.robust_loss > held.robust_loss).any()
    assert (some.robust_error >= held.robust_error).all()
    for other in (held, some):  # the clean curve, and the point that all attack, to the bit
        assert np.array_equal(other.clean_loss, whole.clean_loss)
        assert np.array_equal(other.robust_loss[:, 3], whole.robust_loss[:, 3])
    # at the points of the audit a full attack, to the bit
    for other in (held, some):
        at = np.isfinite(other.full_robust_loss)
        assert at.sum() == other.bias.n == 5 and not at[:, 3].any()
        assert np.array_equal(other.full_robust_loss[at], whole.robust_loss[at])
        assert other.bias.value == pytest.approx(float((other.robust_loss - whole.robust_loss)[at].mean()), rel=1e-12)
    assert whole.bias is None and whole.full_robust_loss.size == 0
    assert "underestimated" in held.examples and "underestimated" in some.examples


def test_contract_lines_measured_whole_are_independent_and_leave_no_trace():
    made = curved()
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    settings = Slice(attack=SHORT, directions=2, positions=3, examples="neighbours")
    points = settings.points()
    assert points == [[0], [1]]
    forwards = [settings.at(made, point) for point in points]
    assert [settings.at(made, point) for point in reversed(points)] == forwards[::-1]
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())


def test_closed_form_a_line_between_two_models_ends_at_both(tmp_path):
    made, there = curved(), curved()
    with torch.no_grad():
        for value in there.model.state_dict().values():
            if value.is_floating_point():
                value.mul_(1.3).add_(0.1)
    save_weights(there.model, tmp_path / "there.safetensors", {})
    settings = Slice(attack=SHORT, along="other", other=str(tmp_path / "there.safetensors"), positions=5)
    found = measure(settings, made)
    assert found.alpha.tolist() == [0, 0.25, 0.5, 0.75, 1] and found.clean_loss.shape == (1, 5)
    for end, whose in ((0, made), (4, there)):
        wanted = performance(whose, SHORT, "slices")
        assert all(getattr(found, name)[0, end] == value for name, value in vars(wanted).items())
    assert found.facts.statistics == "moved" and found.scheme == "none"
    chained = measure(replace(settings, examples="neighbours"), made)
    assert chained.robust_loss[0, 0] == found.robust_loss[0, 0]


@pytest.mark.parametrize("examples", ["retaken", "held", "neighbours"])
def test_contract_a_slice_so_wide_that_the_loss_overflows_is_marked(examples):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 3)), torch.rand(4, 1, 3, 3)
    made = subject(model, x, torch.arange(4) % 3, runtime=TRUTH)
    settings = Slice(attack=SHORT, width=1e30, positions=5, directions=2, examples=examples, audit=1.0)
    found = measure(settings, made)
    assert found.overflowed.tolist() == [[True, True, False, True, True]] * 2
    assert np.isinf(found.robust_loss[found.overflowed]).all() and np.isnan(found.robust_error[found.overflowed]).all()
    assert np.isfinite(found.robust_loss[:, 2]).all() and found.bias is None
    beyond = measure(replace(settings, width=1e39), made)  # beyond float32 itself
    assert np.array_equal(beyond.overflowed, found.overflowed)
    large = measure(replace(settings, width=1e6), made)  # large is not too large
    assert not large.overflowed.any() and large.robust_loss.max() > 1e6
    with torch.no_grad():
        model[1].weight.fill_(1e38)
    with pytest.raises(Diverged):
        measure(settings, made)


def test_contract_a_file_without_the_newer_fields_is_read(tmp_path):
    found = measure(Slice(attack=SHORT, directions=1, positions=3), curved())
    path = save(found, tmp_path / "slices.json")
    document = json.loads(path.read_text())
    for name in ("examples", "overflowed", "full_robust_loss", "full_robust_error", "bias", "error_bias", "facts"):
        del document["result"][name]
    path.write_text(json.dumps(document))
    again = load(path)
    assert again.examples == "retaken at every point" and again.facts.along == "random" and again.bias is None
    np.testing.assert_array_equal(again.robust_loss, found.robust_loss)


def others(folder, numbers):
    """Save checkpoints of the network of ``curved`` elsewhere in weight space, and the last of them as the last."""
    for number in numbers:
        there, g = curved().model, torch.Generator().manual_seed(number)
        with torch.no_grad():
            for value in there.parameters():
                value.add_(torch.randn(value.shape, generator=g, dtype=value.dtype))
        for name in (f"epoch-{number:04d}", "last"):
            save_weights(there, folder / "checkpoints" / f"{name}.safetensors", {})


@pytest.mark.parametrize(("along", "directions"), [("other", 1), ("path", 6)])
def test_contract_other_weights_that_change_on_the_way_are_refused(tmp_path, along, directions):
    made, partial = curved(), tmp_path / "partial"
    others(tmp_path / "run", range(6))
    settings = Slice(attack=SHORT, along=along, other=str(tmp_path / "run"), positions=3, directions=directions)
    steps = measuring(settings, made, partial=partial)
    assert next(step for step in steps if step[0] == 1)[1] > 1
    steps.close()
    others(tmp_path / "run", [6])
    with pytest.raises(BadInput, match=r"changed while it was measured; remove the .partial"):
        measure(settings, made, partial=partial)
    partial.unlink()
    assert np.isfinite(measure(settings, made, partial=partial).robust_loss).all()


def test_contract_a_path_of_another_data_set_is_refused(tmp_path):
    made = curved()
    others(tmp_path, [0])
    plain = {"run": {}, "name": "", "image": [3, 3, 3], "classes": ["0", "1", "2"], "provenance": {}, "schema": 2}
    (tmp_path / "run.json").write_text(json.dumps(plain))
    with pytest.raises(BadInput, match="another data set"):
        measure(Slice(attack=SHORT, along="path", other=str(tmp_path), positions=3, directions=1), made)


def without_filters():
    """A network of parameters of one dimension, w times x plus b."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.b = (nn.Parameter(torch.tensor(values)) for values in ([1.0, -2.0], [0.1, 0.2]))

        def forward(self, x):
            return x.flatten(1)[:, :2] * self.w + self.b

    return subject(Scaled(), torch.rand(4, 1, 3, 3), torch.arange(4) % 2, runtime=TRUTH)


def test_contract_a_network_without_filters_is_not_reported_as_flat():
    made, settings = without_filters(), Slice(attack=SHORT, positions=3, directions=1)
    with pytest.raises(NotApplicable, match=r"no filter whose norm is above 0.*did you mean layer"):
        measure(settings, made)
    found = measure(replace(settings, scheme="layer"), made)
    assert found.direction_norm[0] > 0 and np.ptp(found.clean_loss) > 0
    with torch.no_grad():
        for value in made.model.parameters():
            value.zero_()
    with pytest.raises(NotApplicable, match="no layer whose norm is above 0"):
        measure(replace(settings, scheme="layer"), made)
