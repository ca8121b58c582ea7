"""Adversarial perturbations at two points of weight space, compared example by example."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from robustscape.evaluation.judging import batches, judge, search
from robustscape.types import Attack, Params, Plain, Subject
from robustscape.weights.space import shifted


def compared(
    subject: Subject, attack: Attack, starts: int, name: str, v: Params | None = None, a: float = 0.0
) -> dict[str, Plain]:
    """Return how alike the perturbations at w + a v and at w - a v are, and the errors at both.

    Args:
        subject: What is looked at, w being the weights that its model carries.
        attack: Finds the perturbations, on the fast view; errors are judged by the model itself.
        starts: Independent starts at each of the two, compared one by one.
        name: Purpose of their random numbers, which depend on neither v nor a.
        v: The direction; None for w itself.
        a: The step.

    Returns:
        Means over the examples, None where there was nothing to take the mean of.

    Raises:
        Diverged: a loss is not finite.
    """
    cosines, signs, errors = [], [], np.zeros((2, 2))
    for rows, count in batches(subject):
        deltas = []
        for side, sign in enumerate((1.0, -1.0)):
            with shifted(subject.model, v, sign * a) if v else nullcontext():
                delta, wrong = _perturbations(subject, attack, starts, rows, name, side)
            deltas.append(delta[:, :count])
            errors[side] += wrong[:, :count].sum(dim=1).double().cpu().numpy()
        cosines.append(_cosine(*deltas).cpu())
        signs.append(_cosine(*(delta.sign() for delta in deltas)).cpu())
    (clean, robust), n = errors.T / len(subject.x), len(subject.x)
    cosine = torch.cat(cosines, dim=1).numpy()
    return {
        **_summary(cosine),
        "sign_similarity": _summary(torch.cat(signs, dim=1).numpy())["similarity"],
        "zero": float(np.isnan(cosine).sum() / (starts * n)),
        "clean_error": clean.tolist(),
        "robust_error": robust.tolist(),
    }


def _perturbations(
    subject: Subject, attack: Attack, starts: int, rows: Tensor, name: str, side: int
) -> tuple[Tensor, Tensor]:
    """Return x_adv - x by start, (S, B, pixels), and whether the clean and the worst input are wrong, (2, B)."""
    x = subject.x[rows]
    with subject.view as searched:
        _, clean = judge(subject.model, x, subject.y[rows], parts=subject.parts)
        robust, deltas = clean, []
        for start in range(starts):
            found = search(subject, searched, attack, rows, name, "side", side, start)
            robust = robust | found.wrong
            deltas.append((found.x_adv - x).flatten(1))
    return torch.stack(deltas), torch.stack([clean, robust])


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    """Return the cosines along the last dimension, float64; NaN where a vector is 0."""
    one, other = one.double(), other.double()
    return (one * other).sum(dim=-1) / (one.norm(dim=-1) * other.norm(dim=-1))


def _summary(cosine: np.ndarray) -> dict[str, Plain]:
    """Return the mean of (S, N) cosines and its standard errors over examples and over starts; NaN are left out."""
    there = ~np.isnan(cosine)
    known = np.where(there, cosine, 0.0)

    def means(axis: int) -> np.ndarray:
        counts = there.sum(axis=axis)
        return known.sum(axis=axis)[counts > 0] / counts[counts > 0]

    examples, starts = means(0), means(1)
    return {
        "similarity": float(examples.mean()) if len(examples) else None,
        "standard_error": _standard_error(examples),
        "start_error": _standard_error(starts),
    }


def _standard_error(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
