"""AMP against the formulas of the papers and of the authors' code."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from robustscape.types import BadInput
from robustscape.weights.amp import AMP

spec = importlib.util.spec_from_file_location("naive", Path(__file__).with_name("naive.py"))
naive = importlib.util.module_from_spec(spec)
spec.loader.exec_module(naive)


def _of_the_paper(amp):
    """Algorithm 1 of AT-AMP, v as one long vector."""

    def search(now, w, x_adv):
        sizes = [p.numel() for p in w.values()]
        flat = torch.zeros(sum(sizes), dtype=torch.float64)

        def v():
            return {n: part.view_as(p) for part, (n, p) in zip(flat.split(sizes), w.items(), strict=True)}

        for n in range(amp.steps):
            if n and amp.refresh:
                x_adv = now.attacked(v(), "refresh", n)
            b = torch.cat([value.flatten() for value in now.slope(v(), x_adv).values()])
            flat = flat + amp.step_size * b
            if flat.norm() > amp.delta:
                flat = amp.delta * flat / flat.norm()
        return v(), x_adv

    return search


def _of_the_code(amp):
    """The authors' closure and loop: tensor by tensor, the gradient clipped as torch does it."""

    def search(now, w, x_adv):
        v = {name: torch.zeros_like(p) for name, p in w.items()}
        for _ in range(amp.steps):
            slope = now.slope(v, x_adv)
            total = torch.stack([g.norm() for g in slope.values()]).norm()
            clip = min(1.0, float(amp.clip / (total + 1e-6)))
            for name in v:
                deviation = v[name] + amp.step_size * clip * slope[name]
                factor = amp.delta / (deviation.norm() + 1e-12)
                v[name] = factor * deviation if factor < 1 else deviation
        return v, x_adv

    return search


@pytest.mark.parametrize("trades", [False, True])
@pytest.mark.parametrize(
    "amp",
    [
        AMP(),
        AMP(delta=0.3, steps=3),
        AMP(delta=100.0, steps=2, step_size=0.5, refresh=False, statistics="w"),
        AMP(delta=0.3, steps=2, statistics="every", decay_at="w+v"),
        AMP(delta=0.3, steps=2, statistics="eval"),
    ],
)
def test_reference_one_step_of_the_papers_float64(amp, trades):
    naive.assert_equal(amp, _of_the_paper(amp), trades=trades)


@pytest.mark.parametrize(
    "amp", [AMP.official(), replace(AMP.official(), steps=3, delta=0.1), replace(AMP.official(), clip=0.05, steps=2)]
)
def test_reference_one_step_of_the_authors_code_float64(amp):
    naive.assert_equal(amp, _of_the_code(amp))


@pytest.mark.parametrize("unit", ["network", "layer"])
def test_closed_form_the_radius_is_of_all_parameters_or_of_each(unit):
    (v, _, _), *_ = naive.by_library(AMP(delta=1e-6, unit=unit), count=1)
    assert set(v) == {name for name, _ in naive.network().named_parameters()}
    lengths = torch.stack([value.norm() for value in v.values()])
    each = lengths[lengths > 1e-12]  # the bias before the normalisation has no gradient but rounding
    if unit == "network":
        assert torch.allclose(lengths.norm(), torch.tensor(1e-6).double())
    else:
        assert torch.allclose(each, torch.full_like(each, 1e-6)) and len(each) > 4


def test_contract_settings():
    assert AMP.official() == AMP(delta=0.5, refresh=False, unit="layer", clip=50, statistics="every")
    for wrong in (dict(delta=0), dict(step_size=-1), dict(clip=0), dict(warmup=-1), dict(unit="filter")):
        with pytest.raises(BadInput, match="AMP's"):
            AMP(**wrong)
    with pytest.raises(BadInput, match="at least 1 step, not 0"):
        AMP(steps=0)
