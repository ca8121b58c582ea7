import math
from typing import get_args

import pytest
import torch

from robustscape.models.activations import Activation, activated_by
from robustscape.types import BadInput


def _normal(x: float) -> float:
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def _softplus(x: float) -> float:
    return math.log1p(math.exp(x))


FORMULAS = {
    "relu": lambda x: max(x, 0.0),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * _normal(x),
    "mish": lambda x: x * math.tanh(_softplus(x)),
    "softplus": _softplus,
}


@pytest.mark.parametrize("name", get_args(Activation))
def test_closed_form_is_the_formula(name):
    points = [-3.0, -0.5, 0.0, 0.5, 3.0]
    x = torch.tensor(points, dtype=torch.float64)
    expected = torch.tensor([FORMULAS[name](p) for p in points], dtype=torch.float64)
    torch.testing.assert_close(activated_by(name)(x), expected, rtol=1e-12, atol=1e-12)
    assert x.tolist() == points


def test_contract_an_unknown_name_is_told_the_nearest():
    with pytest.raises(BadInput, match=r"no activation 'swilu' \(did you mean silu\?\)"):
        activated_by("swilu")  # pyright: ignore[reportArgumentType]
