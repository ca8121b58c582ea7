"""The estimator: scikit-learn's own checks, what it says when there is no minimum, and exact robust accuracy."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array, csr_matrix
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import check_estimator

from robustscape.linear.adversary import worst_input
from robustscape.linear.checks import dense
from robustscape.linear.estimator import RobustLogisticRegression
from robustscape.linear.multiclass import worst_margin_input
from robustscape.linear.norms import dual_norm
from robustscape.linear.separability import maximum_margin
from robustscape.types import BadInput

NORMS = ["linf", "l2", "l1"]
EPS = {"linf": 0.05, "l2": 0.4, "l1": 1.0}


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X / 16, y


@pytest.fixture(scope="module")
def two(digits):
    X, y = digits
    rows = (y == 3) | (y == 8)
    return X[rows], y[rows]


# -- scikit-learn ----------------------------------------------------------------------------------------

# L-BFGS stops within tol of the minimum, not at the same digits: these compare to 1e-7.
INEXACT = {
    f"check_sample_weight_equivalence_on_{kind}_data": "solved to tol, not to the last digit"
    for kind in ("dense", "sparse")
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "norm, multi_class", [("linf", "ovr"), ("l2", "ovr"), ("l1", "ovr"), ("linf", "classwise_bound")]
)
def test_contract_scikit_learns_checks_pass(norm, multi_class):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the checks fit noise: no weights are better than none there
        expected = INEXACT if multi_class == "classwise_bound" else {}
        done = check_estimator(
            RobustLogisticRegression(norm, multi_class=multi_class), on_skip=None, expected_failed_checks=expected
        )
    assert sum(check["status"] == "passed" for check in done) > 50


def test_reference_without_an_adversary_it_is_scikit_learns(two):
    X, y = two
    weight = np.linspace(0.5, 2, len(y))
    ours = RobustLogisticRegression(eps=0.0, C=0.3, tol=1e-10).fit(X, y, weight)
    theirs = LogisticRegression(C=0.3, tol=1e-10, max_iter=10_000).fit(X, y, weight)
    assert np.abs(ours.coef_ - theirs.coef_).max() < 1e-5
    assert np.abs(ours.intercept_ - theirs.intercept_).max() < 1e-4
    assert np.abs(ours.predict_proba(X) - theirs.predict_proba(X)).max() < 1e-5


@pytest.mark.parametrize("norm", NORMS)
def test_contract_the_gap_is_reported_and_small(two, norm):
    model = RobustLogisticRegression(norm, EPS[norm]).fit(*two)
    assert model.outcome_ == "optimal"
    assert 0 <= model.duality_gap_[0] <= 1e-6 * model.objective_[0]
    assert 1 <= model.n_iter_[0] <= 100


def test_contract_sample_weights_count_as_copies_and_0_as_absence(two):
    X, y = two
    weight = np.arange(len(y)) % 3
    weighted = RobustLogisticRegression(eps=0.05, tol=1e-12).fit(X, y, weight)
    copied = RobustLogisticRegression(eps=0.05, tol=1e-12).fit(np.repeat(X, weight, axis=0), np.repeat(y, weight))
    assert np.abs(weighted.coef_ - copied.coef_).max() < 1e-6


@pytest.mark.parametrize("norm", NORMS)
def test_contract_sparse_features_give_the_same(two, norm):
    X, y = two
    dense = RobustLogisticRegression(norm, EPS[norm]).fit(X, y)
    for kind in (csr_array, csr_matrix):
        sparse = RobustLogisticRegression(norm, EPS[norm]).fit(kind(X), y)
        assert np.abs(dense.coef_ - sparse.coef_).max() < 1e-5
        assert sparse.robust_score(kind(X), y) == dense.robust_score(X, y)


@pytest.mark.parametrize("norm", NORMS)
def test_contract_a_path_is_made_of_single_fits(two, norm):
    X, y = two
    values = [0.0, EPS[norm] / 2, EPS[norm]]
    path = RobustLogisticRegression(norm, tol=1e-8).path(X, y, values)
    assert [model.eps for model in path] == values
    for model in path:
        alone = RobustLogisticRegression(norm, model.eps, tol=1e-8).fit(X, y)
        assert not model.warm_start
        assert abs(model.objective_[0] - alone.objective_[0]) < 1e-7 * alone.objective_[0]
        assert np.abs(model.coef_ - alone.coef_).max() < 1e-4  # sqrt(2 tol objective)


def test_contract_a_warm_start_begins_where_the_last_fit_ended(two):
    model = RobustLogisticRegression(eps=0.05, warm_start=True).fit(*two)
    first = model.n_iter_[0]
    assert model.fit(*two).n_iter_[0] < first


def test_contract_it_goes_into_a_pipeline(two):
    X, y = two
    model = make_pipeline(MinMaxScaler(), RobustLogisticRegression(eps=0.05)).fit(X, y)
    assert model.score(X, y) > 0.95


# -- several classes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_contract_one_against_the_rest_is_so_many_binary_fits(digits, norm):
    X, y = digits
    model = RobustLogisticRegression(norm, EPS[norm] / 2).fit(X, y)
    alone = RobustLogisticRegression(norm, EPS[norm] / 2).fit(X, y == 4)
    assert model.coef_.shape == (10, 64)
    assert np.array_equal(model.coef_[4], alone.coef_[0])
    assert model.intercept_[4] == alone.intercept_[0]


def test_contract_the_classwise_bound_is_more_robust_than_no_adversary(digits):
    X, y = digits
    settings = {"multi_class": "classwise_bound", "tol": 1e-3}
    plain = RobustLogisticRegression(eps=0.0, **settings).fit(X, y)
    robust = RobustLogisticRegression(eps=0.05, **settings).fit(X, y)
    assert robust.outcome_ == "optimal"
    assert robust.robust_score(X, y) > plain.robust_score(X, y, eps=0.05) + 0.03
    assert np.abs(robust.predict_proba(X).sum(axis=1) - 1).max() < 1e-12


# -- robust accuracy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_reference_the_robust_score_is_accuracy_at_the_exact_adversarys_inputs(two, norm):
    X, y = two
    model = RobustLogisticRegression(norm, EPS[norm], box=(0, 1)).fit(X, y)
    signs = torch.from_numpy(np.where(y == 8, 1, -1))
    w, x = torch.from_numpy(model.coef_[0]), torch.from_numpy(X)
    for box in ((0, 1), None):
        model.set_params(box=box)
        worst = worst_input(w, x, signs, norm=norm, eps=2 * EPS[norm], box=box).numpy()
        assert model.robust_score(X, y, eps=2 * EPS[norm]) == model.score(worst, y)


def test_reference_of_several_classes_too(digits):
    X, y = digits
    model = RobustLogisticRegression(eps=0.05).fit(X, y)
    worst = worst_margin_input(
        torch.from_numpy(model.coef_),
        torch.from_numpy(X),
        torch.from_numpy(y),
        norm="linf",
        eps=0.05,
        intercept=torch.from_numpy(model.intercept_),
    ).numpy()
    assert model.robust_score(X, y) == model.score(worst, y)
    weight = np.arange(len(y))
    assert abs(model.robust_score(X, y, sample_weight=weight) - model.score(worst, y, weight)) < 1e-12
    assert model.robust_score(X, y, eps=0.0) == model.score(X, y)


# -- where there is no minimum ---------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_contract_below_the_margin_it_says_so_and_gives_the_maximum_margin(digits, norm):
    X, y = digits
    X, y = X[y < 2], y[y < 2]
    best = maximum_margin(torch.from_numpy(X), torch.from_numpy(2 * y - 1), norm=norm, intercept=True)
    model = RobustLogisticRegression(norm, 0.5 * best.value, C=np.inf)
    with pytest.warns(UserWarning, match=f"no finite minimum.*margin of {best.value:.6g}"):
        model.fit(X, y)
    assert model.outcome_ == "separable"
    assert abs(float(dual_norm(torch.from_numpy(model.coef_[0]), norm)) - 1) < 1e-9
    reached = ((2 * y - 1) * model.decision_function(X)).min()
    assert abs(reached - best.value) < 1e-6
    above = RobustLogisticRegression(norm, 1.3 * best.value, C=np.inf).fit(X, y)
    assert above.outcome_ == "optimal"


def test_contract_beyond_the_threshold_it_says_so_and_gives_0(two):
    X, y = two
    model = RobustLogisticRegression(eps=0.99)
    with pytest.warns(UserWarning, match=r"eps=0\.99 is at or beyond 0\.\d+: no weights are better than none"):
        model.fit(X, y)
    assert model.outcome_ == "constant"
    assert not model.coef_.any()
    assert abs(model.predict_proba(X)[0, 1] - (y == 8).mean()) < 1e-12


def test_contract_the_box_is_named_where_the_constant_is_best_only_without_it(two):
    X, y = two
    with pytest.warns(UserWarning, match="no weights are better than none without the box, and coef_ is 0"):
        RobustLogisticRegression(eps=0.99, box=(0, 1)).fit(X, y)


def test_contract_a_strong_ridge_is_not_taken_for_an_eps_that_is_too_large(digits):
    settings = {"multi_class": "classwise_bound", "tol": 1e-3, "C": 1e-6}
    model = RobustLogisticRegression(eps=1e-6, **settings).fit(*digits)
    assert model.outcome_ == "optimal"
    with pytest.warns(
        UserWarning, match="eps=0.9 is too large: no weights are better than none, and coef_ is 0"
    ) as told:
        assert RobustLogisticRegression(eps=0.9, **settings).fit(*digits).outcome_ == "constant"
    assert told[0].filename == __file__


def test_contract_no_more_steps_are_asked_for_where_they_do_not_help(digits):
    message = "cannot be lowered further in float64; scale the features or raise tol"
    X, y = digits
    with pytest.warns(ConvergenceWarning, match=message):
        RobustLogisticRegression("l2", 0.05, C=1e10).fit(255 * X[y < 2], y[y < 2] == 0)
    rows = np.flatnonzero(y < 3)[:100]
    classwise = RobustLogisticRegression(eps=0.05, C=0.01, multi_class="classwise_bound", tol=1e-15)
    with pytest.warns(ConvergenceWarning, match=message):
        classwise.fit(X[rows], y[rows])


@pytest.mark.parametrize("norm", NORMS)
def test_closed_form_an_infimum_that_no_weights_attain_is_said_with_how_far_it_is(norm):
    """Two examples can be told apart from three at 0, whose own least loss is the entropy of one in three."""
    X, y = np.array([[1.0], [2.0], [0.0], [0.0], [0.0]]), np.array([1, 1, 1, 1, 0])
    model = RobustLogisticRegression(norm, 0.0, C=np.inf)
    message = r"no finite minimum: C is inf and the loss of at least 2 of 5 .*, 1\.90954, may be up to \S+e-06 .* above"
    with pytest.warns(ConvergenceWarning, match=message):
        model.fit(X, y)
    assert model.outcome_ == "unattained"
    assert 0 < model.objective_[0] - (3 * np.log(3) - 2 * np.log(2)) <= model.duality_gap_[0]
    assert RobustLogisticRegression(norm, 0.0, C=1e6).fit(X, y).outcome_ == "optimal"
    three = RobustLogisticRegression(norm, 0.0, C=np.inf)
    with pytest.warns(ConvergenceWarning) as told:
        three.fit(np.append(X, [[0.0]], axis=0), [2, 2, 2, 1, 0, 0])
    assert list(three.outcome_) == ["unattained"] * 3
    for k, warning in enumerate(told):
        assert f"no finite minimum for class {k} against the rest" in str(warning.message)


def test_contract_sparse_features_too_large_for_a_maximum_margin_are_refused():
    X = csr_array(([1.0, -1.0], ([0, 1], [0, 1])), shape=(2, 300_000_000))
    with pytest.raises(BadInput, match=r"C is inf and .* 2 x 300000000 features as a dense array, 4.8 GB, more than 4"):
        dense(X)


def test_contract_too_few_steps_are_said_with_how_far_it_is(two):
    with pytest.warns(ConvergenceWarning, match=r"after 2 steps the objective, .*, may be up to .* above its minimum"):
        RobustLogisticRegression(eps=0.05, max_iter=2).fit(*two)


# -- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "l3"}, "norm 'l3' is not one of"),
        ({"eps": -0.1}, "eps must be finite and at least 0, not -0.1"),
        ({"eps": np.nan}, "eps must be finite"),
        ({"C": 0.0}, "C must be above 0, not 0"),
        ({"multi_class": "multinomial"}, "'ovr' or 'classwise_bound', not 'multinomial'"),
        ({"tol": 0.0}, "tol must be above 0"),
        ({"box": (0, 0.5)}, r"outside the box \[0, 0.5\]"),
        ({"box": (1, 0)}, r"the box \[1, 0\] is empty"),
        ({"box": 1}, r"box must be two numbers, \(low, high\), not 1; \(0, 1\) holds pixels"),
        ({"box": (0, 1, 2)}, r"box must be two numbers, \(low, high\), not \(0, 1, 2\)"),
        ({"box": ("0", "1")}, "box must be two numbers"),
        ({"eps": "0.1"}, r"eps must be one number, not '0.1'; did you mean eps=0.1\?"),
        ({"eps": "small"}, "eps must be one number, not 'small'$"),
        ({"eps": None}, "eps must be one number, not None$"),
        ({"eps": np.array([0.1, 0.2])}, r"eps must be one number, not an array of shape \(2,\); .* there is path"),
        ({"eps": [0.1]}, r"eps must be one number, not \[0.1\]"),
        ({"C": "1"}, r"C must be one number, not '1'; did you mean C=1\?"),
        ({"tol": "1e-3"}, r"tol must be one number, not '1e-3'; did you mean tol=0.001\?"),
        ({"max_iter": 2.5}, r"max_iter must be a whole number, not 2.5; did you mean 2\?"),
        ({"max_iter": np.inf}, "max_iter must be a whole number, not inf; it counts steps"),
        ({"max_iter": 0}, "max_iter at least 1, not 1e-06 and 0"),
        ({"norm": np.inf}, "norm 'inf' is not one of linf, l2, l1"),
        ({"norm": ["linf"]}, "is not one of linf, l2, l1"),
        ({"multi_class": 1}, "'ovr' or 'classwise_bound', not 1"),
        ({"fit_intercept": "no"}, "fit_intercept must be True or False, not 'no'"),
        ({"warm_start": None}, "warm_start must be True or False, not None"),
    ],
)
def test_contract_settings_that_cannot_be_meant_are_refused(two, settings, message):
    with pytest.raises(BadInput, match=message):
        RobustLogisticRegression(**settings).fit(*two)


def test_contract_data_that_cannot_be_meant_are_refused(two):
    X, y = two
    model = RobustLogisticRegression()
    with pytest.raises(BadInput, match="labels are of one class, 3"):
        model.fit(X, 0 * y + 3)
    broken = X.copy()
    broken[0, :2] = np.nan, np.inf
    for features in (broken, csr_array(broken)):
        with pytest.raises(BadInput, match=r"2 of \d+ features are NaN or infinite"):
            model.fit(features, y)
    with pytest.raises(BadInput, match="a class have sample weight 0"):
        model.fit(X, y, (y == 3).astype(float))
    with pytest.raises(BadInput, match="at least 0, not -1"):
        model.fit(X, y, -np.ones(len(y)))
    with pytest.raises(BadInput, match="sample_weight must be numbers, one for each example, not 'balanced'"):
        model.fit(X, y, "balanced")
    with pytest.raises(BadInput, match="label 5 was not among those of the fit"):
        model.fit(X, y).robust_score(X[:1], [5])


def test_contract_sizes_that_cannot_be_meant_are_refused(two):
    X, y = two
    model: Any = RobustLogisticRegression()
    for eps, shown in ((0.1, "0.1"), ("0.1", "'0.1'")):
        with pytest.raises(BadInput, match=f"eps of a path must be a list of numbers, not {shown}; for one number"):
            model.path(X, y, eps)
    model.fit(X, y)
    with pytest.raises(BadInput, match=r"eps must be one number, not '0\.1'"):
        model.robust_score(X, y, eps="0.1")
    with pytest.raises(BadInput, match="eps must be finite and at least 0, not -1"):
        model.robust_score(X, y, eps=-1)
