"""Which parameters, their norms, directions, derivatives; there and back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustscape.streams import Streams
from robustscape.types import BadInput
from robustscape.weights.space import (
    filter_norms,
    gaussian,
    gradient,
    hessian_vector_product,
    layer_norms,
    norm,
    normalised,
    select,
    shifted,
)


def _net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # BatchNorm inside a Sequential is called "1": no name tells it.
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3), nn.LayerNorm(3))


def test_closed_form_scopes_go_by_module_type():
    net = _net()
    assert list(select(net, "weights")) == ["0.weight", "3.weight"]
    assert list(select(net, "layers")) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert len(select(net, "all")) == len(list(net.parameters()))
    with pytest.raises(BadInput, match="no parameters"):
        select(nn.BatchNorm1d(2), "layers")


def test_closed_form_filter_normalisation_by_hand():
    w = {"a": torch.tensor([[3.0, 4.0], [0.0, 2.0]]), "b": torch.tensor([5.0, 5.0])}
    d = {"a": torch.tensor([[1.0, 0.0], [3.0, 4.0]]), "b": torch.tensor([1.0, 1.0])}
    out = normalised(d, w, "filter")
    assert torch.allclose(out["a"], torch.tensor([[5.0, 0.0], [1.2, 1.6]]))
    assert torch.equal(out["b"], torch.zeros(2))
    assert torch.allclose(filter_norms(w["a"]), torch.tensor([[5.0], [2.0]]))


def test_closed_form_layer_normalisation_by_hand():
    w = {"a": torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "b": torch.tensor([2.0, 0.0])}
    d = {"a": torch.tensor([[0.0, 1.0], [0.0, 1.0]]), "b": torch.tensor([0.0, 4.0])}
    out = normalised(d, w, "layer")
    assert torch.allclose(out["a"], torch.tensor([[0.0, 5.0], [0.0, 5.0]]) / 2**0.5)
    assert torch.allclose(out["b"], torch.tensor([0.0, 2.0]))


def test_closed_form_a_zero_filter_stays_zero_and_a_zero_weight_gives_zero():
    w = {"a": torch.tensor([[0.0, 0.0], [1.0, 0.0]])}
    d = {"a": torch.tensor([[1.0, 1.0], [0.0, 0.0]])}
    assert torch.equal(normalised(d, w, "filter")["a"], torch.zeros(2, 2))


def test_closed_form_norms():
    params = {"a": torch.tensor([[3.0]]), "b": torch.tensor([0.0, 4.0])}
    assert float(norm(params)) == 5
    assert {name: float(value) for name, value in layer_norms(params).items()} == {"a": 3, "b": 4}


def test_contract_shifted_restores_the_bits_also_on_error():
    net = _net()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    v = gaussian(select(net, "layers"), Streams(0, ("v",)))
    with pytest.raises(RuntimeError, match="stop"), shifted(net, v, 0.3):
        for name, p in net.named_parameters():
            expected = before[name] + 0.3 * v[name] if name in v else before[name]
            assert torch.allclose(p.detach(), expected, rtol=1e-6)
        raise RuntimeError("stop")
    assert all(torch.equal(before[name], p) for name, p in net.named_parameters())


def test_contract_shifted_refuses_another_architecture():
    net = _net()
    for wrong in ({"9.weight": torch.zeros(1)}, {"0.weight": torch.zeros(1)}):
        with pytest.raises(BadInput, match="another architecture"), shifted(net, wrong):
            pass


def test_contract_a_direction_depends_on_the_name_not_on_the_company():
    params = select(_net(), "layers")
    rng = Streams(0, ("direction", 1))
    alone = gaussian({"3.weight": params["3.weight"]}, rng)
    assert torch.equal(alone["3.weight"], gaussian(params, rng)["3.weight"])


def test_closed_form_gradient_and_hessian_of_a_quadratic():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    hessian = a @ a.T
    net = nn.Linear(4, 1, bias=False).double()

    def loss() -> torch.Tensor:
        w = net.weight[0]
        return w @ hessian @ w / 2

    slope = gradient(loss(), net, ["weight"])["weight"]
    assert torch.allclose(slope[0], hessian @ net.weight[0].detach(), atol=1e-12)
    v = {"weight": torch.randn(1, 4, generator=generator, dtype=torch.float64)}
    product = hessian_vector_product(loss, net, v)["weight"]
    assert torch.allclose(product[0], hessian @ v["weight"][0], atol=1e-12)
    assert net.weight.grad is None


def test_closed_form_an_unused_parameter_has_gradient_zero():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    slope = gradient(net[0](torch.ones(1, 2)).sum(), net, ["1.weight"])
    assert torch.equal(slope["1.weight"], torch.zeros(2, 2))


def test_contract_a_scale_beyond_the_range_of_the_weights_is_infinite():
    model = nn.Linear(2, 1)
    before = model.weight.detach().clone()
    for sign in (1, -1):
        with shifted(model, {"weight": torch.tensor([[1.0, -2.0]])}, sign * 1e39):
            assert model.weight.tolist() == [[sign * float("inf"), -sign * float("inf")]]
        assert torch.equal(model.weight, before)
