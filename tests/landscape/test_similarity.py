import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.subject import subject
from robustscape.landscape.operator import worst_inputs
from robustscape.landscape.runner import measure
from robustscape.landscape.similarity import Similarity
from robustscape.pictures.plot import sentences
from robustscape.pictures.similarity import picture
from robustscape.results import load, save
from robustscape.runtime import TRUTH
from robustscape.streams import Streams
from robustscape.types import BadInput, Diverged, NotApplicable

L2 = ThreatModel(norm="l2", eps=0.05)
LINF = ThreatModel(eps=0.05)


class Linear2(nn.Module):
    """Logits (-w.x, w.x)/2 of two classes: an L2 attack moves every x along w."""

    def __init__(self, size=9):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.w = nn.Parameter(torch.randn(size, generator=g, dtype=torch.float64))

    def forward(self, x):
        margin = x.flatten(1) @ self.w
        return torch.stack([-margin, margin], dim=1) / 2


def looked_at(model=None, n=11, batch=4):
    g = torch.Generator().manual_seed(1)
    x = 0.3 + 0.4 * torch.rand(n, 1, 3, 3, generator=g, dtype=torch.float64)
    return subject(model or Linear2(), x, torch.arange(n) % 2, seed=5, batch=batch, split="train")


def test_closed_form_l2_perturbations_of_a_linear_model():
    """The perturbation of every example is -+ eps w / ||w||: the cosine is that between w + a v and w - a v."""
    made = looked_at()
    settings = Similarity(
        attack=PGD(threat=L2, steps=1, relative_step=4.0, start="none"), random=2, eigenvectors=1, positions=(0.5, 2.0)
    )
    found = measure(settings, made)
    w = made.model.w.detach()
    xs, sign = worst_inputs(made, settings.attack, "any").flatten(1), 2 * made.y - 1
    p = torch.sigmoid(-sign * (xs @ w))
    dense = (xs.T * (p * (1 - p))) @ xs / len(xs)  # of the logistic loss at held inputs
    values, vectors = torch.linalg.eigh(dense)
    directions = [Streams(5, ("similarity", "direction", d)).tag("w").normal(9, dtype=torch.float64) for d in (0, 1)]
    directions = [*(v / v.norm() for v in directions), vectors[:, -1]]
    assert found.directions == ("random 1", "random 2", "eigenvector 1")
    assert found.direction_norm == pytest.approx([1, 1, 1]) and found.converged.all()
    assert found.curvature == "held"
    assert np.isnan(found.eigenvalue[:2]).all() and found.eigenvalue[2] == pytest.approx(float(values[-1]), rel=1e-4)
    for row, v in enumerate(directions):
        for column, a in enumerate((0.5, 2.0)):
            plus, minus = w + a * v, w - a * v
            expected = float(plus @ minus / plus.norm() / minus.norm())
            # Lanczos stops at a residual of 1 %
            assert found.similarity[row, column] == pytest.approx(expected, rel=1e-9, abs=0.02 if row == 2 else 0)
            signs = float((plus.sign() * minus.sign()).mean())
            assert found.sign_similarity[row, column] == pytest.approx(signs) or row == 2
            for side, moved in enumerate((plus, minus)):
                margin = (made.x.flatten(1) @ moved) * sign
                if row < 2:
                    assert found.clean_error[row, column, side] == pytest.approx(float((margin < 0).double().mean()))
                    fooled = margin < 0.05 * moved.norm()
                    assert found.robust_error[row, column, side] == pytest.approx(float(fooled.double().mean()))
    assert found.same_weights == pytest.approx(1) and found.same_weights_error == pytest.approx(0, abs=1e-9)
    assert (found.standard_error < 1e-9).all() and (found.zero == 0).all() and found.split == "train"
    assert np.array_equal(found.trusted, (found.robust_error <= 0.3).all(axis=2))


def test_closed_form_without_a_random_start_the_same_weights_give_one_and_with_it_less():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    made = looked_at(model)
    still = PGD(threat=LINF, steps=3, start="none")
    settings = Similarity(attack=still, eigenvectors=0, positions=(1e-9,), starts=2)
    found = measure(settings, made)
    assert found.same_weights == pytest.approx(1, abs=1e-12) and found.similarity[0, 0] == pytest.approx(1, abs=1e-6)
    moved = measure(replace(settings, attack=replace(still, start="uniform", steps=1, relative_step=0.1)), made)
    assert moved.same_weights < 0.6 and moved.same_weights_error > 0 and moved.same_weights_start_error > 0
    # so small a step is no step: the same starts give the level of the same weights
    assert moved.similarity[0, 0] == pytest.approx(moved.same_weights, abs=1e-6)


def test_reference_standard_errors_of_random_perturbations():
    """One step of hardly any length keeps the random start: the cosines are those of independent uniform points."""
    made = looked_at(n=60, batch=60)
    attack = PGD(threat=LINF, steps=1, relative_step=1e-9)
    found = measure(Similarity(attack=attack, eigenvectors=0, positions=(0.1,), starts=3), made)
    cosines = []
    for start in range(3):
        deltas = []
        for side in (0, 1):
            rng = Streams(5, ("similarity", "side", side, start), made.index)
            deltas.append((attack(made.model, made.x, made.y, rng=rng) - made.x).flatten(1).numpy())
        cosines.append([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(*deltas, strict=True)])
    cosines = np.array(cosines)
    assert found.same_weights == pytest.approx(cosines.mean(), abs=1e-6)
    assert found.same_weights_error == pytest.approx(cosines.mean(0).std(ddof=1) / 60**0.5, rel=1e-5)
    assert found.same_weights_start_error == pytest.approx(cosines.mean(1).std(ddof=1) / 3**0.5, rel=1e-4)
    assert abs(found.same_weights) < 4 * found.same_weights_error


def test_closed_form_perturbations_of_nothing_are_left_out_and_counted():
    made = looked_at()
    settings = Similarity(
        attack=PGD(threat=LINF, steps=4, start="none", result="misclassified"), eigenvectors=0, positions=(1e-9,)
    )
    found = measure(settings, made)
    wrong = float((made.model(made.x).argmax(1) != made.y).double().mean())
    assert 0 < wrong < 1
    assert found.zero[0, 0] == found.same_weights_zero == pytest.approx(wrong)
    assert found.same_weights == pytest.approx(1)
    none = measure(replace(settings, attack=FGSM(threat=ThreatModel(eps=0.0))), made)
    assert none.same_weights is None and np.isnan(none.similarity).all() and (none.zero == 1).all()


@pytest.mark.parametrize("normalisation", ["filter", "layer"])
def test_closed_form_normalised_directions_have_the_norms_of_the_weights(normalisation):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    settings = Similarity(attack=FGSM(threat=LINF), eigenvectors=0, normalisation=normalisation, positions=(0.1,))
    found = measure(settings, looked_at(model))
    moved = [p for i in (1, 3) for p in model[i].parameters() if normalisation == "layer" or p.ndim > 1]
    length = sum(float(p.detach().square().sum()) for p in moved) ** 0.5
    assert found.direction_norm[0] == pytest.approx(length, rel=1e-6) and found.normalisation == normalisation


def test_contract_points_taken_together_are_those_taken_alone_whatever_the_batches():
    attack = PGD(threat=LINF, steps=2)
    settings = Similarity(attack=attack, positions=(0.1, 0.3), starts=2, eigenvectors=2)
    made = looked_at()
    assert settings.at_once(made) == 2 and replace(settings, eigenvectors=0).at_once(made) == 1
    points = settings.points()
    assert points[-1] == "same weights" and len(points) == 7
    assert settings.several(made, points) == [settings.at(made, point) for point in points]
    other = measure(settings, looked_at(batch=11))
    found = measure(settings, made)
    assert other.similarity == pytest.approx(found.similarity, rel=1e-9, nan_ok=True)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"random": 0, "eigenvectors": 0}, "direction"),
        ({"random": -1}, "direction"),
        ({"normalisation": "x"}, "filter"),
        ({"positions": ()}, "above 0"),
        ({"positions": (0.0, 1.0)}, "above 0"),
        ({"starts": 0}, "starts"),
        ({"least_accuracy": 70}, "did you mean 0.7"),
    ],
)
def test_contract_settings_that_cannot_be_meant_are_refused(wrong, says):
    with pytest.raises(BadInput, match=says):
        Similarity(**wrong)


def wide():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.rand(6, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    return subject(model, x, torch.arange(6) % 2, batch=4, runtime=TRUTH)


def test_contract_a_step_so_long_that_the_loss_overflows_is_marked(tmp_path):
    settings = Similarity(attack=FGSM(threat=LINF), eigenvectors=0, positions=(0.01, 1e30, 1e39))
    found = measure(settings, wide())
    assert found.overflowed.tolist() == [[False, True, True]]
    alone = measure(replace(settings, positions=(0.01,)), wide())
    for name in ("similarity", "sign_similarity", "zero", "standard_error", "clean_error", "robust_error"):
        values = getattr(found, name)
        assert np.isnan(values[:, 1:]).all() and np.array_equal(values[:, :1], getattr(alone, name)), name
    assert not found.trusted[0, 1:].any()
    again = load(save(found, tmp_path / "similarity.json"))
    np.testing.assert_array_equal(again.robust_error, found.robust_error)
    assert "the loss overflows" in sentences(picture({"AT": [again]}).care)
    assert "the loss overflows" not in sentences(picture({"AT": [alone]}).care)
    hollow = [trace for trace in picture({"AT": [again]}).plots[0].traces if trace.style == "hollow"]
    assert all(np.isfinite(trace.y).all() for trace in hollow)
    made = wide()
    with torch.no_grad():
        made.model[1].weight.fill_(1e38)
    with pytest.raises(Diverged):
        measure(settings, made)


def test_contract_a_file_without_the_newer_field_is_read(tmp_path):
    path = save(measure(Similarity(attack=FGSM(threat=LINF), eigenvectors=0), wide()), tmp_path / "similarity.json")
    document = json.loads(path.read_text())
    del document["result"]["overflowed"]
    path.write_text(json.dumps(document))
    assert load(path).overflowed.size == 0
    assert "the loss overflows" not in sentences(picture({"AT": [load(path)]}).care)


def test_contract_a_network_without_filters_has_no_filter_normalised_direction():
    settings = Similarity(attack=FGSM(threat=LINF), eigenvectors=0, normalisation="filter")
    with pytest.raises(NotApplicable, match="no filter"):
        measure(settings, looked_at())  # its weights have one dimension
