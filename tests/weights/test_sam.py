"""SAM against the formulas."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from robustscape.types import BadInput
from robustscape.weights.sam import SAM

spec = importlib.util.spec_from_file_location("naive", Path(__file__).with_name("naive.py"))
naive = importlib.util.module_from_spec(spec)
spec.loader.exec_module(naive)


def _to_the_sphere(rho):
    def search(now, w, x_adv):
        slope = now.slope({}, x_adv)
        length = torch.cat([value.flatten() for value in slope.values()]).norm()
        return {name: rho * value / (length + 1e-12) for name, value in slope.items()}, x_adv

    return search


@pytest.mark.parametrize("trades", [False, True])
@pytest.mark.parametrize(
    "sam", [SAM(), SAM.official(), *(SAM(rho=0.5, statistics=of) for of in ("w+v", "every", "eval"))]
)
def test_reference_one_step_float64(sam, trades):
    naive.assert_equal(sam, _to_the_sphere(sam.rho), trades=trades)


def test_reference_what_is_frozen_does_not_move_float64():
    naive.assert_equal(SAM(rho=0.5), _to_the_sphere(0.5), frozen=("0.weight", "1.bias", "4.bias"))


def test_closed_form_biases_and_normalisation_move_too():
    (v, _, _), *_ = naive.by_library(SAM(rho=0.3), count=1)
    assert set(v) == {name for name, _ in naive.network().named_parameters()}
    assert torch.allclose(torch.cat([value.flatten() for value in v.values()]).norm(), torch.tensor(0.3).double())


def test_contract_settings():
    assert SAM.official() == SAM(decay_at="w+v")
    for wrong in (dict(rho=0), dict(rho=float("nan")), dict(warmup=-1), dict(statistics="all"), dict(decay_at="v")):
        with pytest.raises(BadInput, match="SAM's"):
            SAM(**wrong)
