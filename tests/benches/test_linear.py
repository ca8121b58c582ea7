"""The bench of linear models: which of scikit-learn's tolerances counts as as near as ours."""

from robustscape.benches.linear import LinearBench
from robustscape.evaluation.subject import drained

TIGHT = "scikit-learn, eps 0: nats per example above ours"
LOOSE = "scikit-learn, eps 0, its own tolerance: nats per example above ours"


def test_end_to_end_where_no_tolerance_is_enough_the_nearest_is_timed_and_its_distance_shown(monkeypatch):
    near = drained(LinearBench().quick().running())
    assert near.notes[TIGHT].median <= 1e-4
    monkeypatch.setattr("robustscape.benches.linear._NEAR", -1.0)
    nearest = drained(LinearBench().quick().running())
    assert set(nearest.rates) == set(near.rates)
    assert nearest.notes[TIGHT].median < nearest.notes[LOOSE].median
