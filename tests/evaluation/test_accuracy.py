import doctest
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustscape.evaluation import accuracy
from robustscape.evaluation.accuracy import Evaluating, evaluate, evaluating
from robustscape.evaluation.subject import drained, subject
from robustscape.results import load, save
from robustscape.runtime import TRUTH, PlainView
from robustscape.runtime.predicting import search_bytes
from robustscape.types import BadInput, Diverged


class Logistic(nn.Module):
    """Logits (0, w . x + b)."""

    def __init__(self, weight, bias=0.0):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.tensor(bias, dtype=weight.dtype))

    def forward(self, x):
        z = x.flatten(1) @ self.weight + self.bias
        return torch.stack([torch.zeros_like(z), z], dim=1)


def logistic_data(dtype=torch.float64, n=60):
    """Pixels stay in the box under these eps, so that the ball alone decides."""
    g = torch.Generator().manual_seed(1)
    weight = torch.randn(16, generator=g, dtype=torch.float64)
    x = 0.3 + 0.4 * torch.rand(n, 1, 4, 4, generator=g, dtype=torch.float64)
    model = Logistic(weight.to(dtype), -0.5 * float(weight.sum()))
    y = ((x.flatten(1) @ weight - 0.5 * weight.sum()) > 0).long()
    y[::7] = 1 - y[::7]
    return model, x.to(dtype), y


@pytest.mark.parametrize(("norm", "eps", "dual"), [("linf", 0.02, 1), ("l2", 0.07, 2)])
def test_closed_form_linear_model(norm, eps, dual):
    model, x, y = logistic_data()
    margin = (2 * y - 1) * model(x)[:, 1].detach()
    worst = margin - eps * model.weight.detach().norm(dual)
    assert 0.2 < (worst < 0).float().mean() < 0.8  # a question with two answers

    found = evaluate(model, x, y, eps=eps, norm=norm)
    assert found.fooled.tolist() == (worst < 0).tolist()
    assert found.clean_error.value == pytest.approx(float((margin < 0).double().mean()))
    assert found.clean_loss.value == pytest.approx(float(F.softplus(-margin).mean()), rel=1e-12)
    # linf reaches the corner exactly, l2 its pole up to the last steps' turn
    assert found.losses == pytest.approx(F.softplus(-worst).numpy(), rel=1e-12 if norm == "linf" else 1e-4)
    correct = (margin > 0).numpy()
    assert found.robust_loss_correct.value == pytest.approx(found.losses[correct].mean())
    assert found.robust_loss_incorrect.value == pytest.approx(found.losses[~correct].mean())
    for k in (0, 1):
        assert found.class_robust_error[k] == pytest.approx(found.fooled[y == k].mean())
    assert found.provenance.precision == "float64"


@pytest.mark.slow
def test_closed_form_a_search_that_claims_too_much_is_confirmed_on_the_model_itself():
    model, x, y = logistic_data(torch.float32)
    margin = (2 * y - 1) * model(x)[:, 1].detach()
    robust = margin - 0.02 * model.weight.detach().norm(1) > 0
    liar = Logistic(-model.weight.detach(), -float(model.bias.detach()))
    made = replace(subject(model, x, y, runtime=TRUTH), view=PlainView(liar))
    found = drained(evaluating(Evaluating(eps=0.02), made))
    assert found.fooled.tolist() == (~robust).tolist()


def test_closed_form_eps_0_is_clean():
    model, x, y = logistic_data(torch.float32)
    found = evaluate(model, x.numpy(), y.numpy(), eps=0)
    assert found.robust_error == found.clean_error
    assert found.robust_loss == found.clean_loss


def small_net():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3)
    return nn.Sequential(*layers)


def small_data(n=50):
    g = torch.Generator().manual_seed(2)
    return torch.rand(n, 1, 6, 6, generator=g), torch.randint(0, 3, (n,), generator=g)


def test_contract_flags_do_not_depend_on_the_batch_size():
    x, y = small_data()
    model = small_net()
    with torch.no_grad():
        y = torch.where(torch.arange(50) % 5 > 0, model.eval()(x).argmax(1), y)
    whole, parts = (
        evaluate(model, x, y, eps=0.03, steps=5, loss_steps=5, batch_size=b, sanity=0, runtime=TRUTH) for b in (50, 7)
    )
    assert 0.1 < whole.robust_error.value < 0.95
    assert np.array_equal(whole.fooled, parts.fooled)
    # one example's arithmetic may differ in the last bits between compute shapes
    assert parts.losses == pytest.approx(whole.losses, rel=1e-4)


def test_contract_flags_do_not_depend_on_memory():
    model, (x, y) = small_net(), small_data()
    settings = {"eps": 0.03, "steps": 5, "loss_steps": 5, "batch_size": 20, "sanity": 0}
    whole = evaluate(model, x, y, runtime=TRUTH, **settings)
    for_ten = replace(TRUTH, memory_limit=10.5 * search_bytes(model, TRUTH, x) / 2**30)
    with pytest.warns(UserWarning, match="a batch of 20: it is worked through 10 at a time") as told:
        parts = evaluate(model, x, y, runtime=for_ten, **settings)
    assert len(told) == 1 and np.array_equal(whole.fooled, parts.fooled)
    assert parts.losses == pytest.approx(whole.losses, rel=1e-4)
    with pytest.warns(UserWarning, match="a batch of 20: it is worked through 10 at a time"):
        drained(
            evaluating(Evaluating(batch_size=20, steps=1, sanity=0), subject(model, x, y, runtime=for_ten, batch=7))
        )


def test_contract_an_example_is_what_it_is_in_any_company():
    model, (x, y) = small_net(), small_data()
    # Products of fewer than a dozen rows are rounded by a row's place on some processors.
    settings = Evaluating(eps=0.05, steps=3, loss_steps=3, batch_size=16)
    whole = drained(evaluating(settings, subject(model, x, y, runtime=TRUTH)))
    order = torch.arange(49, -1, -1)
    turned = drained(evaluating(settings, subject(model, x[order], y[order], index=order, runtime=TRUTH)))
    assert np.array_equal(turned.losses[::-1], whole.losses)
    assert np.array_equal(turned.fooled[::-1], whole.fooled)


def test_contract_the_first_n_with_progress_and_a_file(tmp_path):
    model, (x, y) = small_net(), small_data()
    settings = Evaluating(eps=0.05, steps=2, loss_steps=2, n=20, batch_size=8)
    steps = evaluating(settings, subject(model, x, y, split="test", data_name="noise"))
    ticks = []
    with pytest.raises(StopIteration) as end:
        while True:
            ticks.append(next(steps))
    found = end.value.value
    places = [tick.done for tick in ticks]
    assert places[-1] == ticks[-1].total == 180 and places == sorted(places)  # 20 images, 1 + 2 x 2 + 2 x 2 steps
    assert ticks[-1].words == f"robust accuracy so far {1 - found.robust_error.value:.1%}"
    assert found.split == "test" and found.provenance.data == "noise, first 20"
    assert found.clean_error.n == len(found.fooled) == found.class_n.sum() == 20
    again = load(save(found, tmp_path / "evaluation.json"))
    assert again.robust_error == found.robust_error and np.array_equal(again.fooled, found.fooled)
    assert again.provenance == found.provenance


def test_contract_no_trace():
    model, (x, y) = small_net(), small_data(8)
    model.train()
    model[4].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags, state = [m.training for m in model.modules()], torch.random.get_rng_state()
    with pytest.warns(UserWarning, match="chance: 3 of 8"):
        evaluate(model, x, y, steps=2, loss_steps=2)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == flags
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_contract_a_class_without_examples_is_nan():
    model, (x, _) = small_net(), small_data(6)
    found = evaluate(
        model, x, torch.zeros(6, dtype=torch.int64), steps=1, loss_steps=1, sanity=0, classes=("a", "b", "c")
    )
    assert found.classes == ("a", "b", "c") and found.class_n.tolist() == [6, 0, 0]
    assert np.isnan(found.class_robust_error[1:]).all() and 0 <= found.class_robust_error[0] <= 1


class NaNWhenTouched(nn.Module):
    """Finite logits for pixels of exactly 1/2, NaN for all others."""

    def forward(self, x):
        touched = (x - 0.5).flatten(1).abs().amax(1, keepdim=True) > 0
        return torch.where(touched, torch.nan, x.flatten(1)[:, :2] * torch.tensor([1.0, 2.0]))


def test_contract_nan_is_an_error_and_never_fooled():
    x, y = torch.full((4, 1, 2, 2), 0.5), torch.ones(4, dtype=torch.int64)
    with pytest.raises(Diverged):
        evaluate(NaNWhenTouched(), x, y, eps=0.1)
    with pytest.raises(BadInput, match="NaN"):
        evaluate(NaNWhenTouched(), x + 0.1, y, eps=0.1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"eps": 8}, "8/255"), ({"n": 0}, "None"), ({"batch_size": 0}, "batch_size"), ({"restarts": -1}, "restarts")],
)
def test_contract_settings_that_cannot_be_meant_are_refused(settings, says):
    with pytest.raises(BadInput, match=says):
        Evaluating(**settings)


@pytest.mark.parametrize("suite", ["quick", "standard"])
def test_contract_no_restarts_leave_pgd_out(suite):
    assert "PGD" in [one.name for one in Evaluating(suite=suite).entries()]
    assert "PGD" not in [one.name for one in Evaluating(suite=suite, restarts=0).entries()]


@pytest.mark.parametrize(
    ("surrogate", "sanity", "says"),
    [
        (nn.Linear(4, 2), 0, "sanity=0"),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), 8, "surrogate"),
        (nn.Sequential(nn.Flatten(), nn.Linear(5, 2)), 8, "surrogate.* cannot take images"),
        (lambda x: x, 8, "Module"),
    ],
)
def test_contract_a_surrogate_that_could_not_be_tried_is_refused(surrogate, sanity, says):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    x, y = torch.full((8, 1, 2, 2), 0.5), torch.zeros(8, dtype=torch.int64)
    with pytest.raises(BadInput, match=says):
        evaluate(model, x, y, eps=0.1, steps=1, loss_steps=1, sanity=sanity, surrogate=surrogate)


def test_contract_the_example_runs():
    found = doctest.testmod(accuracy)
    assert found.attempted == 4 and found.failed == 0
