"""What `measure` writes and says of a result."""

from dataclasses import replace

import numpy as np
import pytest

from robustscape.cli.measure import _cares, _file, _numbers
from robustscape.landscape.directions.family import Facts
from robustscape.landscape.flatness import Estimate
from robustscape.landscape.gradients import GradientResult
from robustscape.results import save


@pytest.fixture
def lines(fake):
    return fake.slices(0.1, 1.0)


@pytest.fixture
def gradients(fake):
    two, layers = np.array([1.0, 2.0]), np.ones((2, 1))
    one = Estimate(value=3.0, low=2.0, high=4.0, n=5)
    return GradientResult(
        losses=("clean", "robust"), loss=two, norm=two, stochastic_norm=two, stochastic_deviation=two, minibatch=2,
        minibatches=5, clean_signal=one, robust_signal=one, clean_noise=one, robust_noise=one, clean_noise_scale=one,
        robust_noise_scale=one, layers=("w",), layer_norm=layers, relative_norm=layers, slope=layers, attack="PGD",
        n=10, split="test", provenance=fake.PROVENANCE,
    )  # fmt: skip


def test_contract_what_is_no_number_is_said(lines):
    assert _cares(lines) == []
    wide = lines.robust_loss > lines.robust_loss.min()
    found = _cares(replace(lines, overflowed=wide, facts=Facts(along="hessian", converged=(False, True))))
    assert found[0] == "eigenvalues that did not converge: eigenvector 1"
    assert f"overflows at {wide.sum()} of {wide.size} points" in found[1]


def test_contract_every_number_says_what_it_is_of_with_its_interval_and_unit(fake, lines):
    found = _numbers(fake.flatness(0.3, 0.1))
    assert found == (
        ": Flatness (robust loss) 0.3 [0.279, 0.321] nats; Flatness of the clean loss 0.1 [0.075, 0.15] nats"
    )
    rise = (lines.robust_loss - lines.robust_loss[:, [10]]).mean()
    assert _numbers(lines) == f": Mean rise along slices (robust loss) {rise:.4g} nats"
    assert _numbers(fake.histograms(0.1)) == ""


def test_contract_what_an_audit_found_stands_behind_what_was_measured(lines):
    bias = Estimate(value=-0.1743, low=-0.3, high=-0.05, n=5)
    found = _numbers(replace(lines, bias=bias, error_bias=Estimate(value=-0.02, low=-0.04, high=0.01, n=5)))
    assert found.startswith(": Mean rise along slices (robust loss) ") and found.endswith(
        " nats; Robust loss less that of full attacks -0.1743 [-0.3, -0.05] nats; "
        "Robust error less that of full attacks -0.02 [-0.04, 0.01] fraction"
    )


def test_contract_an_interval_without_an_upper_end_is_shown_in_words(gradients):
    told = replace(gradients, robust_noise_scale=Estimate(value=107.0, low=27.0, high=np.inf, n=5))
    assert "; Gradient noise scale (robust loss) 107 [27, no upper end] examples; Gradient noise" in _numbers(told)
    lost = replace(gradients, robust_noise_scale=Estimate(value=np.inf, low=4.153, high=np.inf, n=5))
    assert "; Gradient noise scale (robust loss) infinite [4.153, no upper end] examples" in _numbers(lost)
    assert _numbers(lost).startswith(": Gradient norm (robust loss) 2 nats; ")


def test_contract_the_result_of_another_split_stays(tmp_path, lines):
    plain, behind = (tmp_path / "results" / f"slices-last{name}.json" for name in ("", "-train"))
    assert _file(tmp_path, "slices-last", "train") == plain
    save(lines, plain)
    assert _file(tmp_path, "slices-last", lines.split) == plain
    assert lines.split == "test" and _file(tmp_path, "slices-last", "train") == behind
    plain.write_text("cut sh")
    assert _file(tmp_path, "slices-last", "train") == plain
