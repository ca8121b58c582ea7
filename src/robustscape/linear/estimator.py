"""Logistic regression that is trained for the worst input within eps of each example, as a scikit-learn estimator."""

# ruff: noqa: N803 - X and C are what scikit-learn calls them

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from robustscape.linear.checks import (
    check_features,
    check_finite,
    check_settings,
    check_size,
    check_sizes,
    checked_weights,
)
from robustscape.linear.classwise import Classwise
from robustscape.linear.fits import fit_apart, fit_together
from robustscape.linear.multiclass import robust
from robustscape.linear.norms import Box, Norm
from robustscape.linear.objective import Matrix
from robustscape.types import BadInput

_ROWS = 2048  # examples judged at once


class RobustLogisticRegression(ClassifierMixin, BaseEstimator):
    """Logistic regression under an adversary, solved to a certified minimum: no attack is run.

    Minimises, for two classes,

        C sum_n s_n log(1 + exp(-y_n (w.x_n + b) + eps ||w||_q)) + ||w||_2^2 / 2,

    the loss at the worst input x_n + delta, ||delta||_p <= eps, 1/p + 1/q = 1 (Liu 2020,
    https://arxiv.org/abs/2006.08403, equation 6). With eps = 0 it is scikit-learn's ``LogisticRegression``. Under
    linf weights that do not pay become exactly 0.

    Attributes:
        norm: Norm p of the perturbation: "linf", "l2" or "l1".
        eps: Its largest size in the unit of the features, at least 0; 8/255 by default, for pixels in [0, 1].
        C: Weight of the losses against the ridge, above 0; inf for no ridge.
        fit_intercept: Whether there is a b, which is not penalised and which the adversary does not move.
        multi_class: For more than two classes: "ovr", one against the rest, each solved exactly, or
            "classwise_bound", all at once by the convex upper bound of the worst-case cross-entropy in which every
            class has a worst input of its own (``bracket.classwise_bound``).
        box: (low, high) that all features are in; others are refused. ``robust_score`` keeps the adversary in it.
            The fit does not, so that what it minimises is an upper bound then. None for no box.
        tol: Duality gap at which to stop, as a fraction of the objective.
        max_iter: Most Newton steps for two classes; a hundred times as many gradient steps where there are too many
            features for a Hessian, fifty times as many steps of L-BFGS for the class-wise bound.
        warm_start: Whether ``fit`` begins at the weights of the last one.
        classes_: (K,), the labels.
        coef_: (1, d) for two classes, (K, d) for more.
        intercept_: (1,) or (K,).
        objective_: What was minimised, at the weights: one number, or one for each class against the rest.
        duality_gap_: How far it is above its minimum at most, alike; where C = inf, that of weights of up to ten times
            the size.
        n_iter_: Steps, alike.
        outcome_: "optimal", or what was warned of, alike. "unfinished": ``max_iter`` came before ``tol``.
            "constant": eps is so large that without the box no weights are better than none, and they are 0.
            "separable": C = inf and every ball can be classified, so that there is no minimum; the weights are the
            maximum-margin direction, ||w||_q = 1, or with the class-wise bound some that classify every ball.
            "unattained": C = inf and only weights without limit come to the infimum; ``coef_`` is within ``tol`` of it.
            Not looked for with the class-wise bound, above 2500 features, or above 2^24 in all examples together.
        n_features_in_: d.

    Deviations:
        ``multi_class="ovr"`` is deprecated in scikit-learn; here it is the default, as what is exact for more classes.
    """

    def __init__(
        self,
        norm: Norm = "linf",
        eps: float = 8 / 255,
        *,
        C: float = 1.0,
        fit_intercept: bool = True,
        multi_class: Literal["ovr", "classwise_bound"] = "ovr",
        box: Box | None = None,
        tol: float = 1e-6,
        max_iter: int = 100,
        warm_start: bool = False,
    ) -> None:
        self.norm: Norm = norm
        self.eps = eps
        self.C = C
        self.fit_intercept = fit_intercept
        self.multi_class = multi_class
        self.box = box
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start

    def __sklearn_tags__(self) -> Any:
        """Say what scikit-learn may give: sparse features too."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def fit(self, X: Matrix, y: Any, sample_weight: Any = None) -> Self:
        """Find the weights.

        Args:
            X: (N, d), finite, dense or scipy.sparse.
            y: (N,), labels of at least two classes.
            sample_weight: (N,), how much each example counts, at least 0; None for 1.

        Raises:
            BadInput: settings, features or labels that cannot be meant; or C = inf and sparse features that every ball
                of can be classified, which would take more than 4 GB as the dense array that is needed then.
            Diverged: C = inf and the solver of the maximum-margin direction failed.
        """
        check_settings(**self.get_params(deep=False))
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64, ensure_all_finite=False)
        check_classification_targets(y)
        check_features(X, self.box)
        classes, numbers = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise BadInput(f"the labels are of one class, {classes[0]!s}; at least two are needed")
        weight = checked_weights(sample_weight, X.shape[0])
        if not (np.bincount(numbers, weights=weight) > 0).all():
            raise BadInput("all examples of a class have sample weight 0: each class needs one that counts")
        start = self._start(classes, X.shape[1])
        self.classes_ = classes
        if not (weight > 0).all():
            X, numbers, weight = X[weight > 0], numbers[weight > 0], weight[weight > 0]
        problem = Classwise(
            x=X,
            y=numbers,
            classes=len(classes),
            cost=weight * (self.C if np.isfinite(self.C) else 1.0),
            ridge=float(np.isfinite(self.C)),
            norm=self.norm,
            eps=float(self.eps),
            intercept=self.fit_intercept,
        )
        if len(classes) > 2 and self.multi_class == "classwise_bound":
            found = fit_together(problem, start=start, tolerance=self.tol, steps=self.max_iter, box=self.box)
        else:
            with threadpool_limits(1, user_api="blas"):  # products too small for threads
                found = fit_apart(problem, classes, start=start, tolerance=self.tol, steps=self.max_iter, box=self.box)
        self.coef_, self.intercept_, self.objective_ = found.w, found.b, found.value
        self.duality_gap_, self.n_iter_, self.outcome_ = found.gap, found.iterations, found.outcome
        for warning in found.warnings:
            warnings.warn(warning, stacklevel=2)
        return self

    def path(self, X: Matrix, y: Any, eps: Sequence[float], sample_weight: Any = None) -> list[Self]:
        """Return an estimator fitted at each eps, each begun at the weights of the one before.

        Args:
            X: As in ``fit``.
            y: As in ``fit``.
            eps: The values, best in rising or falling order.
            sample_weight: As in ``fit``.

        Raises:
            BadInput: as in ``fit``, or eps is not a list.
            Diverged: as in ``fit``.
        """
        check_sizes(eps)
        fitted: list[Self] = []
        for value in eps:
            one = cast("Self", clone(self)).set_params(eps=value, warm_start=True)
            if fitted:
                last = fitted[-1]
                one.classes_, one.coef_, one.intercept_ = last.classes_, last.coef_, last.intercept_
            fitted.append(one.fit(X, y, sample_weight))
        return [one.set_params(warm_start=self.warm_start) for one in fitted]

    def decision_function(self, X: Matrix) -> np.ndarray:
        """Return w.x + b: (N,) for two classes, above 0 for the second; (N, K) for more."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=np.float64, reset=False, ensure_all_finite=False)
        check_finite(X)
        scores = np.asarray(X @ self.coef_.T) + self.intercept_
        return scores.ravel() if len(self.classes_) == 2 else scores

    def predict(self, X: Matrix) -> np.ndarray:
        """Return the most likely label of each example, (N,)."""
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)]

    def predict_proba(self, X: Matrix) -> np.ndarray:
        """Return the probabilities of the classes at the inputs as they are, (N, K), rows summing to 1."""
        from scipy.special import expit, softmax

        scores = self.decision_function(X)
        if scores.ndim == 1:
            return np.stack([expit(-scores), expit(scores)], axis=1)
        if self.multi_class == "classwise_bound":
            return softmax(scores, axis=1)
        # Of one against the rest: as far as no class is likely, the least unlikely one counts.
        apart = np.maximum(expit(scores), np.finfo(float).tiny)
        return apart / apart.sum(axis=1, keepdims=True)

    def predict_log_proba(self, X: Matrix) -> np.ndarray:
        """Return the logarithms of ``predict_proba``, (N, K)."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def robust_score(self, X: Matrix, y: Any, eps: float | None = None, sample_weight: Any = None) -> float:
        """Return the exact robust accuracy: the fraction of examples of which no input of the threat is misclassified.

        Exact for any number of classes, and inside ``box`` where there is one. An input on the boundary counts as
        misclassified.

        Args:
            X: (N, d).
            y: (N,), labels.
            eps: Size of the perturbation; by default that of the fit.
            sample_weight: (N,); None for 1.

        Raises:
            BadInput: as in ``fit``, or a label that the fit has not seen.
        """
        check_is_fitted(self)
        eps = self.eps if eps is None else eps
        check_size(eps)
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64, reset=False, ensure_all_finite=False)
        check_features(X, self.box)
        numbers = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        if not (self.classes_[numbers] == y).all():
            raise BadInput(f"label {y[self.classes_[numbers] != y][0]} was not among those of the fit")
        weight = checked_weights(sample_weight, X.shape[0])
        W, b = torch.from_numpy(self.coef_), torch.from_numpy(self.intercept_)
        if len(self.classes_) == 2:
            W, b = torch.cat([0 * W, W]), torch.cat([0 * b, b])
        safe = np.zeros(X.shape[0])
        for part in (slice(start, start + _ROWS) for start in range(0, X.shape[0], _ROWS)):
            rows = torch.from_numpy(np.array(X[part] if isinstance(X, np.ndarray) else X[part].toarray()))
            labels = torch.from_numpy(numbers[part])
            safe[part] = robust(W, rows, labels, norm=self.norm, eps=eps, box=self.box, intercept=b).numpy()
        return float(np.average(safe, weights=weight))

    def _start(self, classes: np.ndarray, d: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the weights to begin at, where there are any that fit."""
        there = self.warm_start and hasattr(self, "coef_") and np.array_equal(self.classes_, classes)
        if not there or self.coef_.shape != (1 if len(classes) == 2 else len(classes), d) or not self.coef_.any():
            return None
        return self.coef_, self.intercept_ if self.fit_intercept else 0 * self.intercept_
