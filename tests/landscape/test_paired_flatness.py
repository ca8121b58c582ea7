from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.subject import subject
from robustscape.landscape.flatness import AverageFlatness, t_interval
from robustscape.landscape.paired_flatness import compared
from robustscape.landscape.runner import measure
from robustscape.results import load, save
from robustscape.types import BadInput

SETTINGS = AverageFlatness(attack=PGD(threat=ThreatModel(eps=0.1), steps=3, result="best_loss"), samples=6)


def network(sharper, size=6):
    """Networks of one shape whose logits differ by a factor: what flatness sees, and draws have in common."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, size), nn.ReLU(), nn.Linear(size, 3)).double()
    with torch.no_grad():
        model[3].weight *= sharper
    return model


def flatness(model, settings=SETTINGS, **changes):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(9, 1, 4, 4, generator=generator, dtype=torch.float64), torch.arange(9) % 3
    return measure(settings, subject(model, x, y, **{"data_name": "some", "split": "test", **changes}))


def test_closed_form_difference_over_the_common_draws(tmp_path):
    one, other = flatness(network(1.0)), flatness(network(3.0))
    found = compared(one, other)
    apart = one.robust_losses - one.reference_robust_loss - other.robust_losses + other.reference_robust_loss
    expected = t_interval(apart.reshape(3, 2).mean(axis=1), n=6)
    assert found.difference == expected
    assert found.difference.value == pytest.approx(one.robust.value - other.robust.value, rel=1e-9)
    assert found.over_both.value == pytest.approx(found.difference.value) and found.correlation > 0.5
    back = compared(other, one)
    assert back.difference.value == -found.difference.value and back.correlation == pytest.approx(found.correlation)
    assert compared(one, other, of="clean").difference.value == pytest.approx(one.clean.value - other.clean.value)
    kept = [load(save(result, tmp_path / f"{name}.json")) for name, result in (("one", one), ("other", other))]
    assert compared(*kept) == found


def test_closed_form_a_rescaled_network_does_not_differ():
    other = network(1.0)
    with torch.no_grad():
        other[1].weight *= 5
        other[1].bias *= 5
        other[3].weight /= 5
    found = compared(flatness(network(1.0)), flatness(other))
    assert abs(found.difference.value) < 1e-9 and found.difference.high < 1e-9
    assert found.correlation == pytest.approx(1, abs=1e-9) and found.over_both.high < 1e-9


def test_contract_a_network_of_another_shape_can_be_compared():
    found = compared(flatness(network(1.0)), flatness(network(1.0, size=5)))
    assert np.isfinite([found.difference.low, found.difference.high]).all()


def test_contract_old_results_have_no_interval_over_examples():
    one = flatness(network(1.0))
    found = compared(one, replace(one, robust_rises=np.empty(0)))
    assert found.over_both is None and found.difference.value == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"settings": replace(SETTINGS, xi=0.25)}, "differ in xi"),
        ({"settings": replace(SETTINGS, samples=4)}, "differ in samples"),
        ({"settings": replace(SETTINGS, mode="as_published")}, "differ in mode"),
        ({"settings": replace(SETTINGS, law="sphere")}, "differ in law"),
        ({"settings": replace(SETTINGS, group=4)}, "differ in group"),
        ({"settings": replace(SETTINGS, attack=PGD(steps=1))}, "differ in attack"),
        ({"seed": 1}, "differ in seed"),
        ({"data_name": "other"}, "differ in data"),
        ({"split": "train"}, "differ in split"),
    ],
)
def test_contract_results_that_differ_in_more_than_the_network_are_refused(change, says):
    with pytest.raises(BadInput, match=says):
        compared(flatness(network(1.0)), flatness(network(2.0), **change))


def test_contract_another_loss_is_refused():
    one = flatness(network(1.0))
    with pytest.raises(BadInput, match="robust or clean"):
        compared(one, one, of="total")
