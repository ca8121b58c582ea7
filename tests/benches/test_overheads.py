"""The bench of what methods add to a step: what counts as added, and what is refused."""

import pytest

from robustscape.benches.overheads import OverheadsBench, _expected
from robustscape.benches.problem import attack_of
from robustscape.evaluation.subject import drained
from robustscape.objectives.at import AT
from robustscape.objectives.part_at import PartAT
from robustscape.objectives.rst import RST
from robustscape.objectives.trades import TRADES
from robustscape.recipes.estimating import Passes, passes_of_step
from robustscape.types import BadInput
from robustscape.weights.amp import AMP
from robustscape.weights.awp import AWP
from robustscape.weights.rwp import RWP

PGD = attack_of(8 / 255, 4)


@pytest.mark.parametrize(
    ("objective", "weights", "passes"),
    [
        (AT(attack=PGD), None, Passes(forwards=0, inputs=4, weights=1)),
        (AT(attack=PGD), AWP(), Passes(forwards=0, inputs=4, weights=2)),
        (AT(attack=PGD), AWP(below=2.1), Passes(forwards=1, inputs=4, weights=2)),
        (AT(attack=PGD), RWP(), Passes(forwards=0, inputs=4, weights=1)),
        (AT(attack=PGD), AMP(steps=2), Passes(forwards=0, inputs=8, weights=3)),  # attacks again before the second
        (TRADES(attack=PGD), None, Passes(forwards=1, inputs=4, weights=2)),  # the outputs that the attack leads from
        (PartAT(attack=PGD), None, Passes(forwards=0, inputs=2, weights=1)),
    ],
)
def test_closed_form_the_passes_of_a_step_are_those_of_its_formulas(objective, weights, passes):
    assert passes_of_step(objective, weights) == passes


def test_closed_form_what_is_added_is_counted_by_kind_in_every_round():
    seconds = {
        "forward": (1.0, 2.0),
        "pass to the inputs": (10.0, 20.0),
        "pass to the weights": (100.0, 200.0),
    }
    more, less = Passes(forwards=2, inputs=4, weights=3), Passes(forwards=1, inputs=4, weights=1)
    assert _expected(seconds, more, less) == [201.0, 402.0]


def test_closed_form_what_adds_no_pass_is_held_against_at_beside_it():
    bench, at = OverheadsBench(steps=4), AT(attack=PGD)
    seconds = {"at": (10.0, 10.0), "awp": (16.0, 13.0), "ema": (8.0, 9.0), "at beside ema": (4.0, 3.0)}
    seconds |= {"forward": (1.0, 1.0), "pass to the inputs": (2.0, 2.0), "pass to the weights": (3.0, 3.0)}
    costs, notes = bench._told(seconds, {"awp": (at, AWP())}, {"ema": lambda: 1.0})
    assert (costs["ema / at"].low, costs["ema / at"].high) == pytest.approx((2.25, 2.75))  # quartiles of 2 and 3
    assert costs["(awp - at) / added passes"].median == pytest.approx(1.5)  # of 6 / 3 and 3 / 3
    assert notes["awp / at"].median == pytest.approx(1.45)


def test_contract_only_the_methods_that_were_named_are_timed():
    bench = OverheadsBench(methods=("awp", "natural", "label-noise", "entropy-sgd", "mixup")).quick()
    result = drained(bench.running())
    assert set(result.costs) == {"(awp - at) / added passes", "label noise / at"}
    assert set(result.notes) == {"awp / at", "natural / at", "entropy sgd / at", "mixup / at"}
    assert set(result.rates) == {
        *("at", "awp", "natural", "label noise", "entropy sgd", "mixup"),
        *("at beside label noise", "at beside entropy sgd", "at beside mixup"),
        *("forward", "pass to the inputs", "pass to the weights"),
    }


def test_contract_rst_is_timed_on_both_kinds_of_image():
    bench = OverheadsBench().quick()
    labelled = bench._trainer(RST(attack=PGD), None).batch.labelled
    assert labelled is not None and int(labelled.sum()) == len(labelled) / 2
    assert bench._trainer(AT(attack=PGD), None).batch.labelled is None


def test_contract_a_walk_is_of_two_batches():
    bench = OverheadsBench().quick()
    assert bench._walk()() == 2 * bench.problem.batch


def test_contract_a_method_that_is_not_there_is_refused():
    with pytest.raises(BadInput, match=r"there is no method 'awb' \(did you mean awp"):
        OverheadsBench(methods=("awb",))
