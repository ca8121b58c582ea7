import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.judging import performance
from robustscape.evaluation.subject import subject
from robustscape.landscape.lanczos import extremes
from robustscape.landscape.operator import HessianOperator, hessian, worst_inputs
from robustscape.linear.hessian import hessian as exact_hessian
from robustscape.linear.logistic import AdversarialLogistic
from robustscape.runtime import TRUTH
from robustscape.streams import Streams
from robustscape.types import BadInput, Diverged, NotApplicable
from robustscape.weights.space import shifted


def convolutional(dtype=torch.float64):
    """A small network with BatchNorm that has seen data, in eval mode, and a parameter that is frozen."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Softplus(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 4)
        ).to(dtype)
        model(torch.rand(20, 1, 6, 6, dtype=dtype))
        with torch.no_grad():
            model[1].weight.uniform_(0.5, 2)
    model[5].bias.requires_grad_(False)
    return model.eval()


def examples(n=11, dtype=torch.float64):
    return torch.rand(n, 1, 6, 6, dtype=dtype, generator=torch.Generator().manual_seed(1)), torch.arange(n) % 4


def dense(model, x, y, operator):
    """The whole Hessian and the gradient, as functions of a vector in the operator's coordinates."""
    base = {name: value.detach() for name, value in model.named_parameters()}

    def loss(u):
        moved = {name: base[name] + step for name, step in operator.params(u).items()}
        return F.cross_entropy(functional_call(model, {**base, **moved}, (x,)), y)

    return torch.autograd.functional.hessian(loss, operator.like()), torch.func.grad(loss)(operator.like())


@pytest.mark.parametrize("scope", ["all", "layers", "weights"])
@pytest.mark.parametrize("coordinates", ["raw", "layer", "filter"])
def test_reference_products_and_eigenvalues_are_those_of_the_dense_hessian(scope, coordinates):
    model, (x, y) = convolutional(), examples()
    operator = HessianOperator(model, x, y, scope=scope, coordinates=coordinates, batch=4)
    H, g = dense(model, x, y, operator)
    made = torch.stack([operator(e) for e in torch.eye(operator.size, dtype=x.dtype)])
    torch.testing.assert_close(made, H, rtol=1e-12, atol=1e-12 * float(H.abs().max()))
    torch.testing.assert_close(operator.gradient(), g, rtol=1e-12, atol=1e-14)
    assert operator.value() == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-12)

    found = extremes(operator, operator.like(), k=6, bottom=3, tolerance=1e-5, rng=Streams(0))
    exact = torch.linalg.eigvalsh(H)
    torch.testing.assert_close(found.top.values, exact.flip(0)[:6], rtol=1e-6, atol=0)
    torch.testing.assert_close(found.bottom.values, exact[:3], rtol=1e-6, atol=1e-8 * float(exact[-1]))


def test_closed_form_relative_coordinates_are_norms_on_both_sides():
    model, (x, y) = convolutional(), examples()
    raw, relative = (HessianOperator(model, x, y, scope="weights", coordinates=c) for c in ("raw", "filter"))
    conv, linear = model[0].weight.detach(), model[5].weight.detach()
    D = torch.cat(
        [
            conv.flatten(1).norm(dim=1)[:, None].expand(3, 9).flatten(),
            linear.norm(dim=1)[:, None].expand(4, 12).flatten(),
        ]
    )
    v = torch.randn(raw.size, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(relative(v), D * raw(D * v), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kept", [0, 2, None])
@pytest.mark.parametrize("batch", [1, 3, 4, 50])
def test_contract_ragged_batches_and_graphs_that_do_not_stay_change_nothing(batch, kept):
    model, (x, y) = convolutional(), examples()
    whole = HessianOperator(model, x, y, batch=len(x))
    v = torch.randn(whole.size, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    parts = HessianOperator(model, x, y, batch=batch, kept=kept)
    for _ in range(2):
        torch.testing.assert_close(parts(v), whole(v), rtol=1e-12, atol=1e-15)


def test_contract_leaves_the_model_as_it_was():
    model, (x, y) = convolutional(), examples()
    model.train()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = copy.deepcopy(model)
    operator = HessianOperator(model, x, y)
    operator(operator.gradient())
    for (name, new), (_, old) in zip(model.state_dict().items(), before.state_dict().items(), strict=True):
        assert torch.equal(new, old), name
    for new, old in zip(model.parameters(), before.parameters(), strict=True):
        assert new.requires_grad == old.requires_grad
    assert all(parameter.grad is None for parameter in model[1:].parameters())
    assert model.training and torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))


def test_contract_weights_that_moved_are_not_mistaken_for_those_of_the_graph():
    model, (x, y) = convolutional(), examples()
    operator = HessianOperator(model, x, y)
    v = operator.gradient()
    with shifted(model, operator.params(v)), pytest.raises(RuntimeError, match="modified by an inplace operation"):
        operator(v)


def test_contract_attention_is_differentiated_twice():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.keys = nn.Linear(6, 8, dtype=torch.float64)
            self.out = nn.Linear(8, 4, dtype=torch.float64)

        def forward(self, x):
            h = self.keys(x.flatten(1, 2))[:, None]
            return self.out(F.scaled_dot_product_attention(h, h, h)[:, 0].mean(dim=1))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Attention()
    x, y = examples(5)
    operator = HessianOperator(model, x, y, scope="weights")
    with sdpa_kernel(SDPBackend.MATH):
        H, _ = dense(model, x, y, operator)
    v = torch.linspace(-1, 1, operator.size, dtype=x.dtype)
    torch.testing.assert_close(operator(v), H @ v, rtol=1e-10, atol=1e-13)


def test_contract_a_compiled_model_is_differentiated_twice():
    model, (x, y) = nn.Sequential(nn.Flatten(), nn.Linear(36, 4, dtype=torch.float64)), examples(5)
    compiled = torch.compile(model, backend="aot_eager")
    v = torch.linspace(-1, 1, 148, dtype=x.dtype)
    torch.testing.assert_close(HessianOperator(compiled, x, y)(v), HessianOperator(model, x, y)(v))


def test_contract_parameters_that_the_loss_does_not_use_or_is_linear_in_have_no_curvature():
    model = nn.Linear(36, 4, dtype=torch.float64)
    model.spare = nn.Linear(2, 2, dtype=torch.float64)
    x, y = examples()

    def loss(logits, labels):
        return logits.gather(1, labels[:, None])[:, 0]

    operator = HessianOperator(nn.Sequential(nn.Flatten(), model), x, y, loss=loss)
    assert torch.equal(operator(torch.ones_like(operator.like())), operator.like())
    assert bool(operator.gradient().any())


class Binary(nn.Module):
    """Logits (0, w.x)."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w.clone())

    def forward(self, x):
        return F.pad((x.flatten(1) @ self.w)[:, None], (1, 0))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_closed_form_held_hessian_of_logistic_regression_under_attack(norm):
    """Under linf it is the adversarial loss's own Hessian; under l2 the first of its two terms."""
    g = torch.Generator().manual_seed(3)
    x = 0.3 + 0.4 * torch.rand(30, 1, 3, 3, generator=g, dtype=torch.float64)
    y = torch.arange(30) % 2
    w = torch.randn(9, generator=g, dtype=torch.float64)
    eps = 0.1
    made = subject(Binary(w), x, y, runtime=TRUTH, batch=7)
    # Steps that are far longer than the ball: of a linear model PGD is then exact under both norms.
    attack = PGD(threat=ThreatModel(norm=norm, eps=eps), steps=12, step_size=1.0, result="best_loss")
    held = worst_inputs(made, attack, "test")
    operator = hessian(made, held)
    H = torch.stack([operator(e) for e in torch.eye(9, dtype=torch.float64)])
    worst = AdversarialLogistic(x=x.flatten(1), y=2 * y - 1, norm=norm, eps=eps).at(w)
    torch.testing.assert_close(H, exact_hessian(worst, form="held"), rtol=1e-9, atol=1e-12)
    total = exact_hessian(worst, form="total")
    assert torch.allclose(H, total, rtol=1e-9) == (norm == "linf")
    assert float(torch.linalg.eigvalsh(total - H).min()) > -1e-12


def test_closed_form_worst_inputs_have_the_robust_loss():
    model, (x, y) = convolutional(), examples()
    made = subject(model, x, y, seed=4, batch=4, runtime=TRUTH)
    attack = PGD(threat=ThreatModel(eps=0.1), steps=2)
    held = worst_inputs(made, attack, "test")
    assert float((held - x).abs().max()) <= 0.1 + 1e-12
    robust = performance(made, attack, "test").robust_loss
    assert hessian(made, held).value() == pytest.approx(robust, rel=1e-12)
    assert hessian(made).value() < robust


def test_contract_says_what_cannot_be_meant():
    model, (x, y) = convolutional(), examples()
    with pytest.raises(BadInput, match="coordinates 'row' is not one of raw, layer, filter"):
        HessianOperator(model, x, y, coordinates="row")
    with pytest.raises(BadInput, match="no parameters of scope 'weights'"):
        HessianOperator(nn.Flatten(), x, y, scope="weights")
    with torch.no_grad():
        model[5].weight.fill_(torch.inf)
    operator = HessianOperator(model, x, y)
    with pytest.raises(Diverged, match="not finite for 11 of 11 inputs"):
        operator(operator.like())


def test_contract_a_model_that_nothing_moves_in_is_not_one_to_measure():
    x, y = torch.rand(4, 1, 3, 3), torch.arange(4) % 3
    with pytest.raises(NotApplicable, match="no parameters"):
        hessian(subject(nn.Flatten(), x, y, runtime=TRUTH))
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(9)).eval()
    with pytest.raises(NotApplicable, match=r"no filter whose norm is above 0.*did you mean layer"):
        hessian(subject(model, x, y, runtime=TRUTH), coordinates="filter")
    assert float(hessian(subject(model, x, y, runtime=TRUTH), coordinates="layer")(torch.ones(18)).norm()) > 0
