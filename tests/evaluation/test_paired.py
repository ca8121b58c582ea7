"""Two models on the same examples."""

from dataclasses import replace

import numpy as np
import pytest

from robustscape.evaluation.paired import paired
from robustscape.evaluation.result import Evaluation, Number
from robustscape.types import BadInput, Provenance

NONE = Number(value=0.0, low=0.0, high=0.0, n=1)


def _evaluation(fooled, losses=None, **changes):
    fooled = np.array(fooled, dtype=bool)
    made = Evaluation(
        clean_error=NONE, robust_error=NONE, clean_loss=NONE, robust_loss=NONE, robust_loss_correct=None,
        robust_loss_incorrect=None, classes=("a", "b"), class_clean_error=np.zeros(2), class_robust_error=np.zeros(2),
        class_n=np.zeros(2), norm="linf", eps=0.1, attack="PGD-10", split="test", fooled=fooled,
        index=np.arange(len(fooled)), losses=np.zeros(len(fooled)) if losses is None else np.array(losses),
        provenance=Provenance(
            created="", versions={}, commit="", device="", precision="float32", threads=1, seconds=0.0,
            seed=0, model="", data="", settings={},
        ),
    )  # fmt: skip
    return replace(made, **changes)


def _table(both, first, second, neither):
    """Return flags with so many examples fooled by both, the first alone, the second alone and neither."""
    a = [True] * both + [True] * first + [False] * second + [False] * neither
    b = [True] * both + [False] * first + [True] * second + [False] * neither
    return _evaluation(a), _evaluation(b)


def test_closed_form_mcnemar_is_the_binomial_test_of_those_that_differ():
    found = paired(*_table(50, 1, 6, 43))
    assert (found.only_first, found.only_second) == (1, 6)
    assert found.p_value == pytest.approx(2 * (1 + 7) / 2**7)
    assert found.robust_error.value == pytest.approx(-0.05)
    assert paired(*_table(5, 0, 0, 5)).p_value == 1.0


def test_reference_interval_is_newcombes():
    """Newcombe 1998, method 10, of the table 36, 12, 2, 0: an example of the paper."""
    found = paired(*_table(36, 12, 2, 0)).robust_error
    assert (found.low, found.high) == (pytest.approx(0.0569, abs=1e-4), pytest.approx(0.3404, abs=1e-4))


@pytest.mark.slow
def test_closed_form_the_interval_covers_the_difference_as_often_as_it_says():
    """Of 400 draws from one fourfold table some 95 % hold its difference."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        both, first, second, neither = generator.multinomial(300, [0.3, 0.12, 0.05, 0.53])
        found = paired(*_table(both, first, second, neither)).robust_error
        held += found.low <= 0.07 <= found.high
    assert 370 <= held <= 394


def test_closed_form_pairing_sees_a_constant_difference_of_losses():
    losses = np.linspace(0.1, 9.0, 40)
    first, second = _evaluation([False] * 40, losses + 0.25), _evaluation([False] * 40, losses)
    found = paired(first, second).robust_loss
    assert found.value == pytest.approx(0.25)
    assert found.high - found.low < 1e-9


def test_contract_what_does_not_pair_is_refused():
    first, second = _table(5, 1, 2, 3)
    elsewhere = replace(second.provenance, data="MNIST, test")
    for changes in (
        {"eps": 0.2},
        {"attack": "FGSM"},
        {"norm": "l2"},
        {"classes": ("a", "c")},
        {"provenance": elsewhere},
    ):
        changed = replace(second, **changes)
        with pytest.raises(BadInput, match="do not compare"):
            paired(first, changed)
    with pytest.raises(BadInput, match="different examples"):
        paired(first, replace(second, index=second.index + 1))
