"""Eigenvalues by libraries for them, where they are installed, and to what residual they find them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscape.benches.harness import OURS, Side
from robustscape.benches.judged import Judged
from robustscape.benches.peers import imported
from robustscape.benches.result import Spread, spread
from robustscape.landscape.krylov import Krylov, Times
from robustscape.landscape.operator import hessian
from robustscape.landscape.spectrum import top
from robustscape.types import Subject

Solve: TypeAlias = Callable[[], Tensor]
"""Finds eigenvectors of the largest eigenvalues, (k, D)."""

POWER, LANCZOS = "pyhessian", "hessian-eigenthings"
_USUAL = 1e-2  # relative residual where no peer says which
_FINEST = 1e-5  # what float32 can be asked for
_MOST = 400  # products with the Hessian


def by_power(given: Judged, *, k: int, steps: int, change: float) -> tuple[Solve | None, str]:
    """Return PyHessian's power iteration with deflation, on one graph of all examples, or None and why not.

    Args:
        given: The network and its examples.
        k: How many eigenvalues, largest magnitude first.
        steps: Most steps for each.
        change: Relative change of an eigenvalue that ends its steps.
    """
    pyhessian, reason = imported("pyhessian")
    if pyhessian is None:
        return None, reason
    device = given.x.device

    def solve() -> Tensor:
        with _own_chance(device), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of graphs that hold gradients: they are let go below
            made = pyhessian.hessian(given.model, F.cross_entropy, data=(given.x, given.y), cuda=device.type == "cuda")
            _, vectors = made.eigenvalues(maxIter=steps, tol=change, top_n=k)
        given.model.zero_grad(set_to_none=True)
        return torch.stack([torch.cat([part.reshape(-1) for part in vector]) for vector in vectors]).detach()

    return solve, ""


def by_lanczos(given: Judged, *, k: int, steps: int) -> tuple[Solve | None, str]:
    """Return hessian-eigenthings' Lanczos with reorthogonalisation, or None and why not.

    Args:
        given: The network and its examples.
        k: How many of the largest eigenvalues.
        steps: Of Lanczos, at least k.
    """
    eigenthings, reason = imported("hessian_eigenthings")
    if eigenthings is None:
        return None, reason

    def solve() -> Tensor:
        loss = eigenthings.supervised_loss(F.cross_entropy)
        operator = eigenthings.HessianOperator(given.model, [(given.x, given.y)], loss)
        return eigenthings.lanczos(operator, k=k, max_iter=steps, reorthogonalize=True, which="LA", seed=0).eigenvectors

    return solve, ""


def _own_chance(device: torch.device) -> torch.random.fork_rng:  # pyright: ignore[reportGeneralTypeIssues]
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


@dataclass(frozen=True, kw_only=True, eq=False)
class Spectra:
    """The k largest eigenvalues of one Hessian as every side finds them, to one residual.

    Attributes:
        sides: Who finds them.
        missing: Who cannot, and why.
        words: What they do.
        found: Eigenvectors that a side found last, (k, D).
        products: Products with the Hessian that Lanczos has made.
        subject: Whose Hessian it is.
    """

    sides: Mapping[str, Side]
    missing: Mapping[str, str]
    words: str
    found: dict[str, Tensor]
    products: dict[str, int]
    subject: Subject

    def notes(self) -> dict[str, Spread]:
        """Return to which relative residuals each side has found them, and how far its eigenvalues are from ours."""
        told: dict[str, float] = {}
        values, operator = {}, hessian(self.subject)
        for side, vectors in self.found.items():
            values[side], residuals = rayleigh(operator, vectors)
            told[f"{side}, largest relative residual"] = float(residuals.max())
            told[f"{side}, median relative residual"] = float(residuals.median())
        for side, theirs in values.items():
            if side != OURS:
                gap = (theirs.sort(descending=True).values / values[OURS] - 1).abs().max()
                told[f"{side}, largest relative difference to ours"] = float(gap)
        told |= {f"{side}, products": float(count) for side, count in self.products.items()}
        return {f"spectrum, {name}": spread([value]) for name, value in told.items()}


def spectra(
    given: Judged, subject: Subject, *, k: int, power_steps: int, change: float, tolerance: float | None
) -> Spectra:
    """Return who finds the k largest eigenvalues of the Hessian of the mean cross-entropy.

    Without a tolerance PyHessian is run once, and all go to its largest relative residual. Lanczos of others gets the
    number of steps that it needs for that from its own start.

    Args:
        given: The network and its examples, as peers have them.
        subject: The same as robustscape has them.
        k: How many.
        power_steps: Most steps of power iteration for each.
        change: Relative change that ends them.
        tolerance: Relative residual of all k; None for that of PyHessian, or 0.01 without it.
    """
    operator, found, products, missing = hessian(subject), {}, {}, {}
    power, missing[POWER] = by_power(given, k=k, steps=power_steps, change=change)
    if tolerance is None and power is not None:
        tolerance = max(float(rayleigh(operator, power())[1].max()), _FINEST)
    asked = _USUAL if tolerance is None else tolerance
    lanczos, missing[LANCZOS] = by_lanczos(given, k=k, steps=k)
    if lanczos is not None:
        start = torch.randn(operator.size, generator=torch.Generator().manual_seed(0))  # as it starts with seed 0
        products[LANCZOS] = steps = lanczos_steps(operator, start.to(operator.like()), k=k, tolerance=asked)
        lanczos, _ = by_lanczos(given, k=k, steps=steps)

    def ours() -> Tensor:
        extremes = top(subject, k=k, tolerance=asked, most=min(_MOST, operator.size))
        products[OURS] = extremes.products
        return extremes.top.vectors

    def side(name: str, solve: Solve) -> Side:
        def work() -> float:
            found[name] = solve()
            return len(given.x)

        return work

    solvers = {OURS: ours, POWER: power, LANCZOS: lanczos}
    return Spectra(
        sides={name: side(name, solve) for name, solve in solvers.items() if solve is not None},
        missing={name: reason for name, reason in missing.items() if reason},
        words=f"{k} eigenvalues to a relative residual of {asked:.2g}",
        found=found,
        products=products,
        subject=subject,
    )


def rayleigh(times: Times, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalue that fits each vector best, (k,), and ||H v - value v|| / |value| for v of length 1, (k,).

    Args:
        times: The operator.
        vectors: (k, D), none of them 0.
    """
    values, residuals = [], []
    for vector in vectors:
        v = vector / vector.norm()
        product = times(v)
        values.append(v @ product)
        residuals.append((product - values[-1] * v).norm() / values[-1].abs())
    return torch.stack(values), torch.stack(residuals)


def lanczos_steps(times: Times, start: Tensor, *, k: int, tolerance: float) -> int:
    """Return how many steps Lanczos with reorthogonalisation takes from a start until the k largest have converged.

    Args:
        times: The operator.
        start: (D,).
        k: How many.
        tolerance: Largest residual, relative to the eigenvalue.
    """
    krylov = Krylov(times, start, _MOST)
    krylov.begin(start)
    while not (krylov.full or krylov.closed):
        values, _, residuals = krylov.ritz()
        if krylov.count >= k and bool((residuals <= tolerance * values.abs())[-k:].all()):
            break
        krylov.go_on(torch.eye(krylov.count, dtype=torch.float64)[-1])
    return max(krylov.count, k)
