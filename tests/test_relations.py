import math
from dataclasses import replace

import numpy as np
import pytest

from robustscape.landscape.directions.family import Facts
from robustscape.relations import (
    CLEAN,
    ERROR,
    GAP,
    LATE,
    LOSS,
    Network,
    Relations,
    Value,
    arrows,
    halves,
    having,
    levels,
    overfittings,
    relations,
    trends,
    unlevelled,
)
from robustscape.results import load, save
from robustscape.runs import read_runs


@pytest.fixture
def folders(fake, tmp_path):
    return [fake.run(tmp_path / f"at-{s}", name="at", seed=s, robust=0.1 + 0.02 * s, rise=0.3 + s) for s in range(4)]


def change(folder, file, **fields):
    path = folder / "results" / f"{file}.json"
    save(replace(load(path), **fields), path)


def network(x, y, group=0):
    return Network(label="a", group=group, seed=0, values={"x": Value(value=x), "y": Value(value=y)})


def test_contract_every_run_has_its_outcomes_and_measures(folders):
    found = relations(read_runs(folders))
    assert list(found.measures) == ["Flatness", "Flatness of the clean loss", "Mean rise along slices"]
    assert found.classes == 10 and found.notes == () and [n.seed for n in found.last] == [0, 1, 2, 3]
    third = found.last[2].values
    assert third["Flatness"] == Value(value=2.3, low=pytest.approx(0.93 * 2.3), high=pytest.approx(1.07 * 2.3))
    assert third[ERROR].value == pytest.approx(14) and third[CLEAN].value == pytest.approx(98)
    last, train, best = (load(folders[2] / "results" / f"evaluation-{name}.json").robust_loss.value
                         for name in ("last-test", "last-train", "best-test"))  # fmt: skip
    assert third[LOSS].value == last
    assert third[GAP].value == pytest.approx(last - train) and third[LATE].value == pytest.approx(last - best)
    stopped = found.best[2].values
    assert stopped["Flatness"].value == pytest.approx(0.8 * 2.3) and stopped[LOSS].value == best
    assert GAP not in stopped
    pairs = arrows(found, "Flatness", LOSS)
    assert len(pairs) == 4 and pairs[2] == (found.last[2], found.best[2])
    assert arrows(found, "Mean rise along slices", LOSS) == []  # there are none of the best


def test_contract_only_what_was_judged_and_measured_alike_compares(folders):
    change(folders[1], "flatness-last", n=400)
    change(folders[2], "evaluation-best-test", eps=0.1)
    change(folders[3], "evaluation-last-test", eps=0.1)
    found = relations(read_runs(folders))
    assert [n.seed for n in found.last] == [0, 1, 2]
    assert "Flatness" not in found.last[1].values and "Flatness" in found.last[0].values
    assert found.best[2] is None and found.best[1] is not None
    left_out = " ".join(found.notes)
    assert "Judged otherwise, and left out: at (seed 3)." in left_out
    assert "flatness was measured otherwise, and is left out, of at (seed 1)." in left_out
    assert "fewer than 4 runs" in left_out and found.measures == {}


def test_contract_slices_along_other_directions_do_not_take_the_place_of_random_ones(folders):
    before = relations(read_runs(folders)).last
    for folder in folders:
        one = load(folder / "results" / "slices-last.json")
        of = replace(one, robust_loss=one.robust_loss**2, facts=Facts(along="hessian", converged=(True, False)))
        save(of, folder / "results" / "slices_hessian-last.json")
    found = relations(read_runs(folders))
    random, along = "Mean rise along slices", "Mean rise along slices, hessian"
    assert list(found.measures)[2:] == [random, along]
    for old, new in zip(before, found.last, strict=True):
        assert new.values[random] == old.values[random] != new.values[along]
    assert "slices_hessian: some eigenvalues of at (seed 0), at (seed 1)" in " ".join(found.notes)


def test_contract_nothing_judged_gives_nothing(fake, tmp_path):
    run = fake.run(tmp_path / "at", name="at", whole=False)
    (run / "results" / "evaluation-last-test.json").unlink()
    found = relations(read_runs([run]))
    assert (found.last, found.best, found.classes, found.judged) == ((), (), 0, None)


def test_contract_overfitting_of_every_run_by_method(folders):
    (runs,) = overfittings(read_runs(folders)).values()
    assert len(runs) == 4 and runs[0].gap_error.value == pytest.approx(0.05)
    assert "validation" in runs[0].wu_last.meaning


def test_reference_trends_are_least_squares_a_group():
    x, y = np.array([0.0, 1.0, 2.0, 4.0]), np.array([1.0, 2.0, 2.0, 5.0])
    some = [network(a, b) for a, b in zip(x, y, strict=True)]
    (line,) = trends([*some, network(0.0, 1.0, group=1), network(1.0, 2.0, group=1)], "x", "y")
    slope, offset = np.polyfit(x, y, 1)
    assert line.group == 0 and line.x == (0.0, 4.0)
    assert line.y == (pytest.approx(offset), pytest.approx(offset + 4 * slope))
    assert trends([network(1.0, b) for b in y], "x", "y") == []


def test_closed_form_errors_have_a_line_on_each_side_of_ln_k():
    def at(loss, error):
        return Network(label="a", group=0, seed=0, values={LOSS: Value(value=loss), ERROR: Value(value=error)})

    kink = math.log(10)
    low = [at(kink - d, 70 - 20 * d) for d in (1.0, 0.5, 0.25)]
    high = [at(kink + d, 70 + d) for d in (0.0, 1.0, 2.0)]
    below, above = halves([*low, *high], 10)
    assert below.x == (kink - 1.0, kink - 0.25) and below.y == (pytest.approx(50), pytest.approx(65))
    assert above.x == (kink, kink + 2) and above.y == (pytest.approx(70), pytest.approx(72))
    assert len(halves([*low, *high[:2]], 10)) == 1


def test_contract_having_leaves_out_what_lacks_a_value():
    assert having([network(1.0, 2.0), None], "x", "y") == [network(1.0, 2.0)]
    assert having([network(1.0, 2.0)], "x", "z") == []


def judged(*errors):
    some = tuple(Network(label="a", group=0, seed=s, values={ERROR: Value(value=e)}) for s, e in enumerate(errors))
    return Relations(last=some, best=(None,) * len(some), measures={}, classes=10, judged=None, notes=())


def test_reference_good_average_and_poor_are_split_at_the_percentiles_of_stutz():
    errors = [63.0, 54.0, 56.0, 58.0, 55.0, 57.0, 59.0, 61.0, 60.0, 62.0, 64.0]
    good, average, poor = levels(judged(*errors))
    low, high = np.percentile(errors, [30, 70])
    assert [n.values[ERROR].value for n in good.networks] == [54, 55, 56] and low == 57
    assert [n.values[ERROR].value for n in average.networks] == [57, 58, 59, 60] and high == 61
    assert [n.values[ERROR].value for n in poor.networks] == [61, 62, 63, 64]
    assert [level.errors for level in (good, average, poor)] == ["below 57.0 %", "57.0 to 61.0 %", "from 61.0 %"]
    assert unlevelled(judged(*errors)) == ""


@pytest.mark.parametrize(("errors", "why"), [(range(9), "of 10 runs and more; there are 9"), ([5] * 12, "the same")])
def test_contract_too_few_runs_or_equal_ones_are_not_divided(errors, why):
    assert levels(judged(*errors)) == () and why in unlevelled(judged(*errors))
