import numpy as np
import pytest
import torch
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.subject import subject
from robustscape.landscape.operator import hessian, worst_inputs
from robustscape.landscape.runner import measure
from robustscape.landscape.trace import Trace, hutchinson, hutchpp
from robustscape.runtime import TRUTH
from robustscape.streams import Streams
from robustscape.types import BadInput

ATTACK = PGD(threat=ThreatModel(eps=0.05), steps=3, result="best_loss")


def symmetric(values):
    """A matrix of given eigenvalues."""
    Q = torch.linalg.qr(Streams(5).normal(len(values), len(values), dtype=torch.float64)).Q
    return Q @ torch.diag(values) @ Q.T


def looked_at():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.Softplus(), nn.Linear(6, 3)).double()
    x = torch.rand(10, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return subject(model, x, torch.arange(10) % 3, seed=3, batch=4, runtime=TRUTH)


@pytest.mark.parametrize("rank", [1, 5, 10])
def test_closed_form_hutchpp_is_exact_at_a_rank_of_a_third_of_its_products(rank):
    values = torch.zeros(60, dtype=torch.float64)
    values[:rank] = torch.linspace(-3, 8, rank, dtype=torch.float64)
    H = symmetric(values)
    found = hutchpp(lambda v: H @ v, H[0], 30, Streams(0))
    assert found == pytest.approx(float(values.sum()), rel=1e-9, abs=1e-9)


def test_closed_form_hutchinson_is_exact_for_a_diagonal():
    values = torch.linspace(-1, 4, 50, dtype=torch.float64)
    assert hutchinson(lambda v: values * v, values, 1, Streams(0)) == pytest.approx(float(values.sum()), rel=1e-12)


def test_closed_form_both_are_unbiased_and_hutchpp_the_sharper_one():
    values = 10.0 / torch.arange(1, 101, dtype=torch.float64) ** 2
    H = symmetric(values)
    draws = {
        kind: np.array([kind(lambda v: H @ v, H[0], 15, Streams(seed)) for seed in range(60)])
        for kind in (hutchinson, hutchpp)
    }
    for found in draws.values():
        assert abs(found.mean() - float(values.sum())) < 4 * found.std(ddof=1) / np.sqrt(60)
    assert draws[hutchpp].std() < 0.3 * draws[hutchinson].std()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["hutch++", "hutchinson"])
def test_reference_trace_of_a_small_network(method):
    made = looked_at()
    settings = Trace(attack=ATTACK, method=method, products=12, replicates=8, coordinates=("raw", "filter"))
    found = measure(settings, made)
    assert found.trace.shape == (2, 2) and found.replicates.shape == (2, 2, 8) and found.size == 81
    held = worst_inputs(made, ATTACK, "trace")
    for row, x in enumerate((made.x, held)):
        for column, coordinates in enumerate(found.coordinates):
            operator = hessian(made, x, coordinates=coordinates)
            exact = sum(float(operator(e) @ e) for e in torch.eye(81, dtype=torch.float64))
            error = found.replicates[row, column].std(ddof=1) / np.sqrt(8)
            assert abs(found.trace[row, column] - exact) < 4 * error
    assert (found.low < found.trace).all() and (found.trace < found.high).all()


def test_contract_the_clean_loss_alone_without_an_attack():
    found = measure(Trace(attack=None, products=3, replicates=2), looked_at())
    assert found.losses == ("clean",) and found.trace.shape == (1, 2) and found.curvature == "held"


def test_contract_says_what_cannot_be_meant():
    for change, words in (
        ({"products": 10}, "a multiple of 3, not 10"),
        ({"products": 0, "method": "hutchinson"}, "at least 1"),
        ({"replicates": 1}, "replicates must be at least 2"),
        ({"method": "xtrace"}, "'xtrace' is not one of hutch"),
        ({"coordinates": ("raw", "row")}, "not raw row"),
        ({"scope": "none"}, "scope 'none'"),
    ):
        with pytest.raises(BadInput, match=words):
            Trace(**change)
