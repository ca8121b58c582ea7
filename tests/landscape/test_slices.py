import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.subject import subject
from robustscape.landscape.runner import measure, measuring
from robustscape.landscape.slices import Slice
from robustscape.runtime import TRUTH
from robustscape.streams import Streams
from robustscape.types import BadInput


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
