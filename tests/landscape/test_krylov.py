import pytest
import torch

from robustscape.landscape.krylov import Krylov
from robustscape.streams import Streams

DISTINCT = torch.cat(
    [torch.tensor([9.0, 8.0, 7.5, 5.0, 3.0, 2.0], dtype=torch.float64), torch.linspace(-1, 1, 300, dtype=torch.float64)]
)


def test_closed_form_no_ghosts_however_long_it_runs():
    """Without reorthogonalisation copies of the largest come up after some 60 products."""
    krylov = Krylov(lambda v: DISTINCT * v, DISTINCT, 250)
    krylov.begin(Streams(0).normal(len(DISTINCT), dtype=torch.float64))
    while not krylov.full:
        krylov.go_on(torch.eye(krylov.count, dtype=torch.float64)[-1])
    values, _, _ = krylov.ritz()
    torch.testing.assert_close(values.flip(0)[:6], DISTINCT[:6], rtol=1e-12, atol=0)
    assert float(values[-7]) <= 1 + 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("starts", [1, 3])
def test_closed_form_basis_and_what_is_known_of_the_operator(starts, dtype):
    """H Q = Q inner + what is left outside, whose length every Ritz pair's residual is."""
    values = DISTINCT.to(dtype)
    krylov = Krylov(lambda v: values * v, values, 80)
    for start in Streams(1).normal(starts, len(values), dtype=dtype):
        krylov.begin(start)
    while krylov.count < 70:  # more than there is memory for at first
        _, vectors, _ = krylov.ritz()
        krylov.go_on(vectors[:, -1 - krylov.count % min(3, krylov.count)])
    Q, exact = krylov.basis, 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(Q @ Q.T, torch.eye(70, dtype=dtype), rtol=0, atol=exact)
    inner = ((Q * values) @ Q.T).double()
    torch.testing.assert_close(krylov.inner, inner, rtol=0, atol=10 * exact)
    found, vectors, residuals = krylov.ritz()
    pairs = vectors.T.to(dtype) @ Q
    true = (values * pairs - found.to(dtype)[:, None] * pairs).norm(dim=1).double()
    torch.testing.assert_close(residuals, true, rtol=1e-3, atol=20 * exact)


def test_contract_a_vector_inside_the_basis_adds_nothing():
    krylov = Krylov(lambda v: DISTINCT * v, DISTINCT, 20)
    krylov.begin(DISTINCT)
    krylov.begin(3 * DISTINCT)
    assert krylov.count == 1 and not krylov.closed
    krylov.begin(torch.zeros_like(DISTINCT))
    assert krylov.count == 1
