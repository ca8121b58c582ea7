"""The least subgradient at W = 0, against what is known of it."""

import numpy as np
import pytest

from robustscape.linear.balance import least_subgradient

FIRST, SECOND = np.triu_indices(3, 1)
NORMS = {"linf": np.inf, "l2": 2, "l1": 1}


def _slope():
    slope = np.random.default_rng(0).normal(size=(3, 5))
    return slope - slope.mean(axis=0)


@pytest.mark.parametrize("norm", NORMS)
def test_closed_form_of_two_classes_the_capacity_needed_is_the_length_of_the_pull(norm):
    pull = np.random.default_rng(1).normal(size=5)
    slope, pair = np.stack([pull, -pull]), (np.array([0]), np.array([1]))
    needed = np.linalg.norm(pull, ord=NORMS[norm])
    enough = least_subgradient(slope, *pair, np.array([1.01 * needed]), norm, 1e-12)
    assert np.linalg.norm(enough) <= 1e-12
    short = least_subgradient(slope, *pair, np.array([0.99 * needed]), norm, 1e-12)
    assert np.linalg.norm(short) > 1e-3 * needed


@pytest.mark.parametrize("norm", NORMS)
def test_contract_what_can_flow_is_balanced_by_way_of_a_third_class(norm):
    flows = np.random.default_rng(2).normal(size=(3, 5))
    slope = np.zeros((3, 5))
    np.subtract.at(slope, FIRST, flows)
    np.add.at(slope, SECOND, flows)
    room = 1.05 * np.linalg.norm(flows, ord=NORMS[norm], axis=1)
    assert np.linalg.norm(least_subgradient(slope, FIRST, SECOND, room, norm, 1e-10)) <= 1e-10


@pytest.mark.parametrize("norm", NORMS)
def test_contract_what_cannot_flow_leaves_a_direction_of_descent(norm):
    slope, room = _slope(), np.full(3, 0.1)
    v = -least_subgradient(slope, FIRST, SECOND, room, norm, 1e-10)
    dual = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
    assert (slope * v).sum() + 0.1 * np.linalg.norm(v[FIRST] - v[SECOND], ord=dual, axis=1).sum() < 0
