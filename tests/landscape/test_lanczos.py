import pytest
import torch

from robustscape.landscape.lanczos import extremes
from robustscape.streams import Streams
from robustscape.types import BadInput, Diverged

BULK = torch.linspace(-1, 1, 300, dtype=torch.float64)
DISTINCT = torch.cat([torch.tensor([9.0, 8.0, 7.5, 5.0, 3.0, 2.0], dtype=torch.float64), BULK])


def diagonal(values, **options):
    return extremes(lambda v: values * v, values, rng=Streams(0), **options)


def test_closed_form_both_ends_of_a_known_diagonal():
    values = torch.cat([DISTINCT, torch.tensor([-4.0, -3.0], dtype=torch.float64)])
    found = diagonal(values, k=6, bottom=2, tolerance=1e-5)
    torch.testing.assert_close(found.top.values, DISTINCT[:6], rtol=1e-9, atol=0)
    torch.testing.assert_close(found.bottom.values, torch.tensor([-4.0, -3.0], dtype=torch.float64), rtol=1e-9, atol=0)
    places = found.top.vectors.abs().argmax(dim=1)
    assert places.tolist() == [0, 1, 2, 3, 4, 5] and found.converged
    torch.testing.assert_close(found.top.vectors @ found.top.vectors.T, torch.eye(6, dtype=torch.float64))


@pytest.mark.parametrize("tolerance", [0.3, 1e-2, 1e-5])
@pytest.mark.parametrize("start", [None, 1, 4])
def test_closed_form_residuals_are_those_of_the_pairs(tolerance, start):
    drawn = None if start is None else Streams(1).normal(start, len(DISTINCT), dtype=torch.float64)
    found = diagonal(DISTINCT, k=6, bottom=2, tolerance=tolerance, start=drawn)
    for pairs in (found.top, found.bottom):
        true = (DISTINCT * pairs.vectors - pairs.values[:, None] * pairs.vectors).norm(dim=1)
        torch.testing.assert_close(pairs.residuals, true, rtol=1e-6, atol=1e-12)
        assert bool((true <= tolerance * pairs.values.abs() + 1e-12).all())


def test_closed_form_multiple_eigenvalues_from_as_many_vectors():
    values = torch.cat([torch.tensor([9.0, 9.0, 9.0, 7.0, 7.0], dtype=torch.float64), BULK])
    start = Streams(1).normal(3, len(values), dtype=torch.float64)
    found = diagonal(values, k=6, tolerance=1e-4, start=start)
    expected = torch.cat([values[:5], BULK[-1:]])
    torch.testing.assert_close(found.top.values, expected, rtol=1e-6, atol=0)


def test_closed_form_low_rank_goes_on_behind_the_invariant_space():
    A = Streams(2).normal(4, 50, dtype=torch.float64)
    H = A.T @ A
    found = extremes(lambda v: H @ v, H[0], k=8, bottom=1, rng=Streams(0))
    exact = torch.linalg.eigvalsh(H).flip(0)[:8]
    torch.testing.assert_close(found.top.values, exact, rtol=1e-9, atol=1e-9)
    assert found.converged and found.products <= 12
    whole = extremes(lambda v: H @ v, H[0], k=50, rng=Streams(0))
    assert whole.products == 50 and whole.converged
    nothing = extremes(lambda v: 0 * v, H[0], k=3, rng=Streams(0))
    assert nothing.top.values.tolist() == [0, 0, 0] and nothing.converged


def test_closed_form_single_precision_finds_the_same():
    values = DISTINCT.float()
    found = diagonal(values, k=6, bottom=1, tolerance=1e-3)
    torch.testing.assert_close(found.top.values, DISTINCT[:6], rtol=1e-5, atol=0)
    assert found.converged


def test_contract_too_few_products_are_said():
    found = diagonal(DISTINCT, k=6, tolerance=1e-6, most=9)
    assert found.products == 9 and not found.converged and not bool(found.top.converged[-1])


def test_closed_form_a_start_near_the_vectors_takes_fewer_products():
    values = torch.cat([torch.linspace(4, 2, 20, dtype=torch.float64), BULK])
    noise = Streams(3).normal(320, 320, dtype=torch.float64)
    before = torch.diag(values)
    after = before + 0.001 * (noise + noise.T)
    first = extremes(lambda v: before @ v, values, k=20, rng=Streams(0)).top.vectors
    same = extremes(lambda v: before @ v, values, k=20, rng=Streams(1), start=first)
    cold = extremes(lambda v: after @ v, values, k=20, rng=Streams(1))
    warm = extremes(lambda v: after @ v, values, k=20, rng=Streams(1), start=first)
    assert same.products == 25 and warm.products < 0.75 * cold.products
    torch.testing.assert_close(warm.top.values, torch.linalg.eigvalsh(after).flip(0)[:20], rtol=1e-3, atol=0)


def test_closed_form_what_the_start_lacks_is_found():
    start = torch.eye(306, dtype=torch.float64)[[1, 2, 3, 4]]
    found = diagonal(DISTINCT, k=4, tolerance=1e-3, start=start)
    torch.testing.assert_close(found.top.values, DISTINCT[:4], rtol=1e-5, atol=0)


def test_contract_says_what_cannot_be_meant():
    for options, words in (
        ({"k": 0}, "of 306 eigenvalues 0 of the largest"),
        ({"k": 306, "bottom": 1}, "306 of the largest and 1 of the smallest"),
        ({"k": 5, "most": 4}, "most must be at least 5"),
        ({"k": 5, "tolerance": 0.0}, "tolerance must be above 0"),
        ({"k": 5, "start": torch.ones(2, 7)}, "other weights"),
    ):
        with pytest.raises(BadInput, match=words):
            diagonal(DISTINCT, **options)
    with pytest.raises(Diverged, match="not finite"):
        extremes(lambda v: v * torch.nan, DISTINCT, k=1, rng=Streams(0))
