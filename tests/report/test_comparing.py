"""The table of paired comparisons."""

import pytest

from robustscape.report.comparing import comparisons
from robustscape.report.tables import to_text
from robustscape.runs import read_runs


@pytest.fixture
def folders(fake, tmp_path):
    """Two methods of two seeds, and one whose seed no other has."""
    for name, weights, errors in (("at", None, (0.2, 0.24)), ("awp", fake.AWP, (0.1, 0.13))):
        for seed, robust in enumerate(errors):
            fake.run(tmp_path / f"{name}-{seed}", name=name, seed=seed, robust=robust, weights=weights)
    fake.run(tmp_path / "other-7", name="other", seed=7, robust=0.5, weights={"type": "weights.rwp:RWP"})
    return read_runs([tmp_path])


def test_closed_form_each_seed_is_compared_with_the_most_robust_method(folders):
    table = comparisons(folders)
    assert table is not None
    assert table.columns[0].name == "Method against awp"
    assert [row[:2] for row in table.rows] == [("at", "0"), ("at", "1"), ("at", "mean")]
    first, second, both = (row[2] for row in table.rows)
    assert (first.value, second.value) == (pytest.approx(10), pytest.approx(11))
    assert both.value == pytest.approx(10.5)
    assert both.runs == 2
    assert first.low < 10 < first.high
    # The fooled of one are fooled by the other too: all that differ count for one side.
    assert (table.rows[0][4].value, table.rows[0][5].value) == (100, 0)
    assert table.rows[0][6] == "< 0.0001"
    assert "mean" in to_text(table)


def test_contract_nothing_to_compare_gives_no_table(folders):
    assert comparisons(folders[:2]) is None
    assert comparisons([folder for folder in folders if folder.name in ("awp", "other")]) is None
    assert comparisons(folders, "evaluation-none-test") is None
