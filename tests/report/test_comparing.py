"""The table of paired comparisons."""

import pytest

from robustscape.report.comparing import comparisons, model_comparisons, to_lines
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
    words = "at against awp"
    assert [row[:2] for row in table.rows] == [(words, "0"), (words, "1"), (words, "mean")]
    first, second, both = (row[2] for row in table.rows)
    assert (first.value, second.value) == (pytest.approx(10), pytest.approx(11))
    assert both.value == pytest.approx(10.5)
    assert both.runs == 2
    assert first.low < 10 < first.high
    # The fooled of one are fooled by the other too: all that differ count for one side.
    assert (table.rows[0][4].value, table.rows[0][5].value) == (100, 0)
    assert table.rows[0][6] == "< 0.0001"
    assert "mean" in to_text(table)


def test_contract_what_was_judged_otherwise_is_compared_among_itself(fake):
    """The most robust of all has no partner under its threat; the others are not lost with it."""
    found = {
        ("easy", "last", "test"): fake.evaluation(0.0, 0.01, eps=0.1),
        ("c", "last", "test"): fake.evaluation(0.0, 0.4),
        ("a", "last", "test"): fake.evaluation(0.0, 0.2),
        ("b", "last", "test"): fake.evaluation(0.0, 0.3),
        ("a", "best", "test"): fake.evaluation(0.0, 0.25),
        ("b", "best", "test"): fake.evaluation(0.0, 0.15),
        ("b", "best", "train"): fake.evaluation(0.0, 0.1, split="train"),
    }
    table = model_comparisons(found)
    assert table is not None
    assert [row[:3] for row in table.rows] == [
        ("c against a", "last", "test"),
        ("b against a", "last", "test"),
        ("a against b", "best", "test"),
    ]
    assert [row[3].value for row in table.rows] == pytest.approx([20, 10, 10])


def test_contract_the_terminal_has_pair_difference_interval_and_p(folders):
    table = comparisons(folders)
    assert table is not None
    text = to_lines(table, width=100)
    assert text.startswith("Image by image") and max(map(len, text.splitlines())) <= 100
    for words in ("at against awp", "10.0", "[8.", "10.5 ± 0.7", "< 0.0001"):
        assert words in text
    assert "alone" not in text


def test_contract_nothing_to_compare_gives_no_table(folders):
    assert comparisons(folders[:2]) is None
    assert comparisons([folder for folder in folders if folder.name in ("awp", "other")]) is None
    assert comparisons(folders, "evaluation-none-test") is None
    assert model_comparisons({}) is None
