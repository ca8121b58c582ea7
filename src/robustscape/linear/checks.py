"""What ``RobustLogisticRegression`` refuses, and the warnings with which it ends where there is no minimum found."""

# ruff: noqa: N803 - X and C are what scikit-learn calls them

from __future__ import annotations

import reprlib
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from robustscape.linear.norms import check_box, check_norm
from robustscape.linear.objective import Matrix
from robustscape.types import BadInput

_LARGEST_DENSE = 4e9  # bytes that sparse features may take as a dense array


def check_settings(
    *,
    norm: Any,
    eps: Any,
    C: Any,
    fit_intercept: Any,
    multi_class: Any,
    box: Any,
    tol: Any,
    max_iter: Any,
    warm_start: Any,
) -> None:
    """Refuse settings of ``RobustLogisticRegression`` that cannot be meant.

    Raises:
        BadInput: one is of the wrong type or out of its range.
    """
    check_norm(norm if isinstance(norm, str) else _shown(norm))
    check_size(eps)
    _check_number("C", C)
    if not C > 0:
        raise BadInput(f"C must be above 0, not {C:g}; a smaller C is a stronger ridge, inf is none")
    if not isinstance(multi_class, str) or multi_class not in ("ovr", "classwise_bound"):
        raise BadInput(f"multi_class must be 'ovr' or 'classwise_bound', not {_shown(multi_class)}")
    _check_box_setting(box)
    _check_number("tol", tol)
    if not isinstance(max_iter, Integral) or isinstance(max_iter, bool):
        whole = isinstance(max_iter, Real) and not isinstance(max_iter, bool) and np.isfinite(float(max_iter))
        meant = f"; did you mean {max(1, int(float(max_iter)))}?" if whole else "; it counts steps"
        raise BadInput(f"max_iter must be a whole number, not {_shown(max_iter)}{meant}")
    if not tol > 0 or max_iter < 1:
        raise BadInput(f"tol must be above 0 and max_iter at least 1, not {tol:g} and {max_iter}")
    for name, value in {"fit_intercept": fit_intercept, "warm_start": warm_start}.items():
        if not isinstance(value, bool | np.bool_):
            raise BadInput(f"{name} must be True or False, not {_shown(value)}")


def check_size(eps: Any) -> None:
    """Refuse an eps that is not one number, finite and at least 0.

    Raises:
        BadInput: it is not.
    """
    _check_number("eps", eps, several="; for one fit for each value there is path")
    if not 0 <= eps < np.inf:
        raise BadInput(f"eps must be finite and at least 0, not {eps:g}")


def check_sizes(eps: Any) -> None:
    """Refuse what is not a list of eps.

    Raises:
        BadInput: it is one number, a text, or of more dimensions.
    """
    if isinstance(eps, str) or np.ndim(eps) != 1:
        raise BadInput(f"eps of a path must be a list of numbers, not {_shown(eps)}; for one number there is fit")


def check_finite(X: Matrix) -> None:
    """Refuse features, (N, d), dense or sparse, that are not finite.

    Raises:
        BadInput: some are NaN or infinite.
    """
    values = X if isinstance(X, np.ndarray) else X.data
    if np.isfinite(values.sum()):  # one pass without a copy; only what is not finite, or overflows, is counted
        return
    count = int((~np.isfinite(values)).sum())
    if count:
        raise BadInput(f"{count} of {values.size} features are NaN or infinite")


def check_features(X: Matrix, box: Any) -> None:
    """Refuse features, (N, d), that are not finite or outside the box, None for no box.

    Raises:
        BadInput: they are, or the box is not one.
    """
    check_finite(X)
    _check_box_setting(box)
    if box is not None:
        check_box(box, torch.from_numpy(np.array([[X.min(), X.max()]])))


def checked_weights(sample_weight: Any, n: int) -> np.ndarray:
    """Return the sample weights, (n,), float64: None and one number stand for as many of 1 and of it.

    Raises:
        BadInput: they are not n numbers, finite, at least 0 and not all 0.
    """
    if sample_weight is None:
        return np.ones(n)
    try:
        weight = np.asarray(sample_weight, dtype=np.float64)
    except (TypeError, ValueError):
        raise BadInput(f"sample_weight must be numbers, one for each example, not {_shown(sample_weight)}") from None
    weight = np.full(n, float(weight)) if weight.ndim == 0 else weight
    if weight.shape != (n,):
        raise BadInput(f"sample_weight of shape {weight.shape} came with {n} examples; one number each is meant")
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise BadInput(f"sample weights must be finite and at least 0, not {weight.min():g}")
    if not weight.any():
        raise BadInput("all sample weights are zero: some example must count")
    return weight


def dense(X: Matrix) -> np.ndarray:
    """Return the features, (N, d), as a dense array, which the maximum-margin direction is found from.

    Raises:
        BadInput: they are sparse and would take more than 4 GB.
    """
    if isinstance(X, np.ndarray):
        return X
    takes = 8.0 * X.shape[0] * X.shape[1]
    if takes > _LARGEST_DENSE:
        raise BadInput(
            f"C is inf and every ball can be classified, and the maximum-margin direction needs the {X.shape[0]} x "
            f"{X.shape[1]} features as a dense array, {takes / 1e9:.3g} GB, more than 4: give a finite C"
        )
    return X.toarray()


# -- warnings ----------------------------------------------------------------------------------------------


def constant_warning(reason: str, box: Any) -> UserWarning:
    """Return what to say where weights of 0 are best; the fit does not know of the box."""
    return UserWarning(
        f"{reason}: no weights are better than none{'' if box is None else ' without the box'}, and coef_ is 0"
    )


def separable_warning(reason: str, instead: str) -> UserWarning:
    """Return what to say where there is no minimum: why, and what ``coef_`` is instead."""
    return UserWarning(f"there is no finite minimum: C is inf and {reason}; {instead}, a finite C gives a minimum")


def unattained_warning(value: float, gap: float, escaping: int, n: int, what: str = "") -> ConvergenceWarning:
    """Return what to say where only infinite weights have the least loss: of how many of n examples, and how far."""
    return ConvergenceWarning(
        f"there is no finite minimum{what}: C is inf and the loss of at least {escaping} of {n} examples falls to 0 "
        f"only as the weights grow without limit; the objective, {value:.6g}, may be up to {gap:.3g} "
        f"({gap / value:.2g} of it) above what weights of up to ten times the size reach; a finite C gives a minimum"
    )


def unfinished_warning(value: float, gap: float, steps: int, what: str = "", *, stalled: bool) -> ConvergenceWarning:
    """Return what to say where the duality gap is not within the tolerance; ``stalled``: more steps do not help."""
    far = f"the objective{what}, {value:.6g}, may be up to {gap:.3g} ({gap / value:.2g} of it) above its minimum"
    if stalled:
        return ConvergenceWarning(f"{far}, and cannot be lowered further in float64; scale the features or raise tol")
    return ConvergenceWarning(f"after {steps} steps {far}; raise max_iter or tol")


# -- types -------------------------------------------------------------------------------------------------


def _check_number(name: str, value: Any, several: str = "") -> None:
    if isinstance(value, Real) and not isinstance(value, bool):
        return
    meant = several if np.ndim(value) else ""
    if isinstance(value, str):
        try:
            meant = f"; did you mean {name}={float(value):g}?"
        except ValueError:
            meant = ""
    raise BadInput(f"{name} must be one number, not {_shown(value)}{meant}")


def _check_box_setting(box: Any) -> None:
    if box is None:
        return
    pair = isinstance(box, tuple | list | np.ndarray) and len(box) == 2
    if not pair or not all(isinstance(end, Real) and not isinstance(end, bool) for end in box):
        raise BadInput(f"box must be two numbers, (low, high), not {_shown(box)}; (0, 1) holds pixels, None is no box")
    if not box[0] < box[1]:
        raise BadInput(f"the box [{box[0]:g}, {box[1]:g}] is empty: low must be below high")


def _shown(value: Any) -> str:
    """Return a value as a few characters on one line."""
    shape = getattr(value, "shape", ())
    return f"an array of shape {tuple(shape)}" if shape else reprlib.repr(value)
