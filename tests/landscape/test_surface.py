from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.judging import performance
from robustscape.evaluation.subject import subject
from robustscape.landscape.runner import measure, measuring
from robustscape.landscape.surface import Surface
from robustscape.results import load, save
from robustscape.runtime import TRUTH
from robustscape.streams import Streams
from robustscape.training.checkpoints import save_weights
from robustscape.types import BadInput, Diverged, NotApplicable

SHORT = PGD(threat=ThreatModel(eps=0.05), steps=9, result="best_loss")  # crosses the whole ball


class Quadratic(nn.Module):
    """Two logits whose cross-entropy for the label 0 is 2 + w'Aw / 2 + k'x, exactly."""

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(4)
        root = torch.randn(6, 6, generator=g, dtype=torch.float64) / 6
        self.register_buffer("a", root @ root.T)
        self.register_buffer("k", torch.linspace(-0.2, 0.3, 9, dtype=torch.float64))
        self.w = nn.Parameter(torch.randn(2, 3, generator=g, dtype=torch.float64))

    def loss(self, w, x):
        return 2 + w.flatten() @ self.a @ w.flatten() / 2 + x.flatten(1) @ self.k

    def forward(self, x):
        q = self.loss(self.w, x)
        return torch.stack([-torch.log(torch.expm1(q)), torch.zeros_like(q)], dim=1)


def quadratic():
    x = 0.2 + 0.6 * torch.rand(7, 1, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return subject(Quadratic(), x, torch.zeros(7, dtype=torch.int64), seed=3, batch=4, classes=("a", "b"))


def curved(seed=2):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
        model(torch.rand(20, 1, 3, 3))
        torch.manual_seed(0)
        x = torch.rand(13, 1, 3, 3, dtype=torch.float64)
    return subject(model.eval().double(), x, torch.arange(13) % 3, seed=1, batch=5)


@pytest.mark.parametrize("examples", ["retaken", "neighbours"])
def test_closed_form_surface_of_a_quadratic_loss(examples):
    made = quadratic()
    found = measure(Surface(attack=SHORT, positions=5, width=0.5, examples=examples), made)
    model, w = made.model, made.model.w.detach()
    axes = [Streams(3, ("surface", number)).tag("w").normal(2, 3, dtype=torch.float64) for number in (0, 1)]
    d1, d2 = (d * (w.norm(dim=1) / d.norm(dim=1))[:, None] for d in axes)
    for row, beta in enumerate(found.beta):
        for column, alpha in enumerate(found.alpha):
            loss = float(model.loss(w + alpha * d1 + beta * d2, made.x).mean())
            assert found.clean_loss[row, column] == pytest.approx(loss, rel=0, abs=1e-10)
    rise = 0.05 * float(model.k.abs().sum())
    np.testing.assert_allclose(found.robust_loss - found.clean_loss, rise, rtol=0, atol=1e-10)
    assert found.cosine == pytest.approx(float((d1 * d2).sum() / d1.norm() / d2.norm()), rel=1e-12)
    assert found.direction_norm == pytest.approx([float(w.norm())] * 2, rel=1e-12)


def test_contract_examples_gone_on_with_are_audited_off_the_centre():
    made = curved()
    settings = Surface(attack=SHORT, positions=3)
    whole = measure(settings, made)
    assert whole.robust_loss[1, 1] == performance(made, SHORT, "surface").robust_loss
    for examples, exact in (("held", [(1, 1)]), ("neighbours", [(0, 1), (1, 1), (2, 1)])):
        found = measure(replace(settings, examples=examples, audit=1.0), made)
        at = np.isfinite(found.full_robust_loss)
        assert sorted(zip(*np.nonzero(~at), strict=True)) == exact and found.bias.n == 9 - len(exact)
        assert np.array_equal(found.full_robust_loss[at], whole.robust_loss[at])
        assert found.bias.value == pytest.approx(float((found.robust_loss - whole.robust_loss)[at].mean()), rel=1e-12)
        assert found.error_bias.value <= 0 and np.array_equal(found.clean_loss, whole.clean_loss)
        for row, column in exact:
            assert found.robust_loss[row, column] == whole.robust_loss[row, column]
        assert "underestimated" in found.examples


def test_closed_form_the_plane_towards_another_model_holds_it(tmp_path):
    made, there = curved(), curved(seed=3)
    save_weights(there.model, tmp_path / "checkpoints" / "last.safetensors", {})
    found = measure(Surface(attack=SHORT, along="other", other=str(tmp_path), positions=3), made)
    assert found.alpha.tolist() == [0, 0.5, 1] and found.beta.tolist() == [-1, 0, 1]
    for column, whose in ((0, made), (2, there)):
        wanted = performance(whose, SHORT, "surface")
        assert all(getattr(found, name)[1, column] == value for name, value in vars(wanted).items())
    assert found.facts.statistics == "moved"


def test_end_to_end_the_plane_of_a_path_holds_its_checkpoints(tmp_path):
    made = curved()
    g = torch.Generator().manual_seed(5)
    axes = [[torch.randn(p.shape, generator=g, dtype=p.dtype) for p in made.model.parameters()] for _ in (0, 1)]
    losses = []
    for number, multiples in enumerate([(0.5, 0.0), (0.25, 0.125)]):
        there = curved()
        with torch.no_grad():
            for place, value in enumerate(there.model.parameters()):
                value.add_(sum(m * axis[place] for m, axis in zip(multiples, axes, strict=True)))
        save_weights(there.model, tmp_path / "checkpoints" / f"epoch-{number:04d}.safetensors", {})
        losses.append(performance(there, SHORT, "surface").clean_loss)
    settings = Surface(attack=SHORT, along="path", other=str(tmp_path), positions=7)
    assert settings.points() == [[0, 1, 2, 3, 4], [5, 6]]
    found = measure(settings, made)
    (first, _), facts = settings._directions(made), found.facts
    assert sum(facts.explained) == pytest.approx(1) and len(facts.path) == 2 and abs(found.cosine) < 1e-9
    second = settings._directions(made)[1]
    for (alpha, beta), loss in zip(facts.path, losses, strict=True):  # the checkpoints have the statistics of w here
        with first.place(alpha), second.place(beta):
            assert performance(made, SHORT, "surface").clean_loss == pytest.approx(loss, rel=1e-10)


@pytest.mark.slow
def test_contract_rows_are_independent_leave_no_trace_and_come_back_from_a_file(tmp_path):
    made = curved()
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    settings = Surface(attack=SHORT, positions=3, along="adversarial", examples="neighbours")
    points = settings.points()
    assert points == [[0], [1], [2]]
    forwards = [settings.at(made, point) for point in points]
    assert [settings.at(made, point) for point in reversed(points)] == forwards[::-1]
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())
    found = measure(settings, made)
    again = load(save(found, tmp_path / "surface.json"))
    assert again.bias == found.bias and again.facts == found.facts and again.scheme == "layer"
    np.testing.assert_array_equal(again.full_robust_loss, found.full_robust_loss)


def test_contract_a_surface_so_wide_that_the_loss_overflows_is_marked():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 3))
    made = subject(model, torch.rand(4, 1, 3, 3), torch.arange(4) % 3, runtime=TRUTH)
    for examples in ("retaken", "neighbours", "held"):
        settings = Surface(attack=SHORT, width=1e30, positions=3, examples=examples)
        found = measure(settings, made)
        assert np.isfinite(found.robust_loss[1, 1]) and found.overflowed.sum() == 8
    with torch.no_grad():
        model[1].weight.fill_(1e38)
    with pytest.raises(Diverged):
        measure(settings, made)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"positions": 4}, "odd"),
        ({"width": 0.0}, "width"),
        ({"audit": -0.1}, "share"),
        ({"along": "path"}, "run directory"),
        ({"examples": "x"}, "retaken"),
    ],
)
def test_contract_settings_that_cannot_be_meant_are_refused(wrong, says):
    with pytest.raises(BadInput, match=says):
        Surface(**wrong)


def test_contract_other_weights_that_change_on_the_way_are_refused(tmp_path):
    made, path, partial = curved(), tmp_path / "there.safetensors", tmp_path / "partial"
    save_weights(curved(seed=3).model, path, {})
    settings = Surface(attack=SHORT, along="other", other=str(path), positions=3)
    steps = measuring(settings, made, partial=partial)
    assert next(step for step in steps if step[0] == 1) == (1, 3)
    steps.close()
    save_weights(curved(seed=4).model, path, {})
    with pytest.raises(BadInput, match="changed while"):
        measure(settings, made, partial=partial)


def test_contract_a_network_without_filters_is_not_reported_as_flat():
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 3))
    made = subject(model, torch.rand(4, 1, 3, 3), torch.arange(4) % 3, runtime=TRUTH)
    with torch.no_grad():
        model[1].weight.zero_()
    with pytest.raises(NotApplicable, match="no filter"):
        measure(Surface(attack=SHORT, positions=3), made)
