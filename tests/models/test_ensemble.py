"""Several networks as one: the log of the mean of their probabilities."""

import pytest
import torch
from torch import nn

from robustscape.evaluation.accuracy import evaluate
from robustscape.models.ensemble import Ensemble
from robustscape.models.resnet import ResNet
from robustscape.runtime import Runtime, fast
from robustscape.types import BadInput


class _Logistic(nn.Module):
    """Logits (0, scale * (w . x - c))."""

    def __init__(self, w, scale):
        super().__init__()
        self.w = nn.Parameter(w)
        self.scale = scale

    def forward(self, x):
        z = self.scale * ((x - 0.5).flatten(1) @ self.w)
        return torch.stack([torch.zeros_like(z), z], dim=1)


class _Fixed(nn.Module):
    """The same logits for every image, which the images move by what they sum to."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x):
        return self.logits + x.flatten(1).sum(dim=1, keepdim=True) * torch.arange(len(self.logits))


def _linear(seed, classes=4):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, classes)).double()


def test_closed_form_the_log_of_the_mean_probability():
    members = [_linear(seed) for seed in range(3)]
    x = torch.rand(5, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean = torch.stack([member(x).softmax(dim=1) for member in members]).mean(dim=0)
    torch.testing.assert_close(Ensemble(members)(x), mean.log(), rtol=0, atol=1e-12)
    torch.testing.assert_close(Ensemble(members[:1])(x), members[0](x).log_softmax(dim=1), rtol=0, atol=1e-12)


def test_closed_form_sure_members_neither_overflow_nor_lose_their_gradients():
    """Probabilities of e^-3000 are 0 in any float; their logarithms, and what moves them, are not."""
    x = torch.zeros(1, 1, 2, 2, requires_grad=True)
    out = Ensemble([_Fixed(3000.0, 0.0, -3000.0), _Fixed(2000.0, 0.0, -3000.0)])(x)
    # log of (1 + 1) / 2; of (e^-3000 + e^-2000) / 2; of (e^-6000 + e^-5000) / 2
    wanted = torch.tensor([[0.0, -2000.0, -5000.0]]) - torch.tensor([[0.0, 0.6931472, 0.6931472]])
    torch.testing.assert_close(out, wanted, rtol=0, atol=1e-3)
    (slope,) = torch.autograd.grad(out[0, 1] - out[0, 0], x)
    assert torch.equal(slope, torch.ones_like(slope))


@pytest.mark.parametrize(("norm", "eps", "dual"), [("linf", 0.02, 1), ("l2", 0.07, 2)])
def test_closed_form_it_is_attacked_as_one(norm, eps, dual):
    """The mean of sigmoids of a and 3 a is above 1/2 where a is above 0, so the exact adversary is known."""
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(16, generator=generator, dtype=torch.float64)
    x = 0.3 + 0.4 * torch.rand(40, 1, 4, 4, generator=generator, dtype=torch.float64)
    a = (x - 0.5).flatten(1) @ w
    y = (a > 0).long()
    y[::7] = 1 - y[::7]
    worst = (2 * y - 1) * a - eps * float(torch.linalg.vector_norm(w, ord=dual))
    assert 0.2 < float((worst < 0).double().mean()) < 0.8
    found = evaluate(Ensemble([_Logistic(w, 1.0), _Logistic(w, 3.0)]), x, y, eps=eps, norm=norm, sanity=0, loss_steps=1)
    assert found.fooled.tolist() == (worst < 0).tolist()


def test_contract_members_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match="at least one member"):
        Ensemble([])
    with pytest.raises(BadInput, match=r"made of torch\.nn\.Module, not of function"):
        Ensemble([nn.Linear(2, 2), lambda x: x])  # pyright: ignore[reportArgumentType]
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64)
    with pytest.raises(BadInput, match="equal size, but got"):
        evaluate(Ensemble([_linear(0, 3), _linear(1, 4)]), x, torch.tensor([0, 1]))


def test_contract_the_fast_view_computes_the_same():
    """Networks of this library are traced and their normalisations folded, inside an ensemble too."""
    members = [ResNet(width=4).build(image=(1, 8, 8), classes=3, seed=seed) for seed in (0, 1)]
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model = Ensemble(members).eval()
    with fast(model, Runtime(precision="float32")) as view, torch.no_grad():
        assert view is not model
        torch.testing.assert_close(view(x), model(x), rtol=0, atol=1e-5)
