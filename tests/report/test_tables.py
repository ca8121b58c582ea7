import csv
import io

import pytest

from robustscape.report import tables
from robustscape.report.quantities import Quantity
from robustscape.report.tables import Column, Table, is_words, to_csv, to_latex, to_text, to_words
from robustscape.results import save
from robustscape.runs import read_runs

SMALL = Table(
    columns=(Column(name="Method"), Column(name="Error", unit="%"), Column(name="Rise", unit="nats", decimals=2)),
    rows=(
        ("at_awp", Quantity(value=8.25, low=7.0, high=9.75), Quantity(value=0.5, spread=0.125, runs=3)),
        ("a & <b>", None, Quantity(value=-0.001)),
    ),
)


@pytest.fixture(scope="module")
def folders(fake, tmp_path_factory):
    return read_runs(fake.tree(tmp_path_factory.mktemp("tree")))


def test_contract_summary_has_a_row_a_group(folders):
    found = tables.summary(folders)
    assert [row[0] for row in found.rows] == ["natural", "at", "at_awp"]
    cells = dict(zip([column.name for column in found.columns], found.rows[1], strict=True))
    assert cells["Robust error, last"].value == pytest.approx(100 * (0.112 + 0.116 + 0.120) / 3)
    assert cells["Robust error, last"].spread == pytest.approx(0.4)
    assert cells["Robust error, best"].value == pytest.approx(10.6)
    assert cells["Gap"].value == pytest.approx(7.4)
    assert cells["Flatness"].value == pytest.approx(0.44)
    assert cells["Training"].value == 20 * 13
    assert (cells["n"].value, cells["Seeds"]) == (1000, "3 (0, 1, 2)")
    assert "selected on test" not in to_text(found)


def test_contract_selected_on_test_is_a_column_that_says_so(fake, tmp_path):
    run = fake.run(tmp_path / "at", name="at")
    save(fake.evaluation(0.02, 0.08), run / "results" / "evaluation-best_on_test-test.json")
    found = tables.summary(read_runs([run]))
    (place,) = [p for p, column in enumerate(found.columns) if "selected on test" in column.name]
    assert found.rows[0][place].value == pytest.approx(8)


def test_contract_missing_results_are_missing_cells(fake, tmp_path):
    found = tables.summary(read_runs([fake.run(tmp_path / "at", name="at", whole=False)]))
    cells = dict(zip([column.name for column in found.columns], found.rows[0], strict=True))
    assert cells["Gap"] is cells["Flatness"] is cells["Training"] is cells["Robust error, best"] is None


def test_contract_evaluations_has_a_row_a_checkpoint_and_split(folders):
    found = tables.evaluations(folders)
    assert [row[1:3] for row in found.rows[:3]] == [("last", "test"), ("last", "train"), ("best", "test")]
    assert len(found.rows) == 9
    assert found.rows[0][-2] == "linf 0.3"


def test_contract_per_class_has_a_column_a_class(folders, fake):
    found = tables.per_class(folders)
    assert tuple(column.name for column in found.columns[1:]) == fake.CLASSES
    evaluation = folders[0].results["evaluation-last-test"]
    assert [cell.value for cell in found.rows[0][1:]] == pytest.approx(list(100 * evaluation.class_robust_error))
    assert tables.per_class(folders, "evaluation-best_on_test-test") is None


def test_closed_form_words():
    column = Column(name="Error", unit="%", decimals=1)
    assert to_words(Quantity(value=8.25, low=7, high=9.75), column) == "8.2 [7.0, 9.8]"
    assert to_words(Quantity(value=1234.5, low=1, high=2, spread=0.25, runs=2), column) == "1,234.5 ± 0.2"
    assert to_words(Quantity(value=-0.04), column) == "0.0"
    assert to_words(None, column) == "–"


def test_contract_text_is_whole_at_any_width(folders):
    for width in (30, 80, 200):
        text = to_text(tables.summary(folders), width=width)
        for word in ("natural", "at_awp", "Seeds", "3 (0, 1, 2)", "99.8", "[99.3,"):
            assert word in text
    assert max(map(len, text.splitlines())) <= 200


def test_contract_long_words_wrap_and_wide_tables_are_broken_into_blocks(fake):
    table = fake.part("checks", 0, words=12).shown.table
    for width, pieces in ((80, 1), (30, 2)):
        lines = to_text(table, width=width).splitlines()
        assert max(map(len, lines)) <= width
        assert sum(line.startswith("Claim") for line in lines) == pieces
        words = " ".join(lines).split()
        assert (words.count("printed"), words.count("problems")) == (12 * pieces, 12)
        assert {"99.5", "1.2e-05", "-3", "–"} <= set(words)


def test_closed_form_a_column_of_numbers_written_as_words_stands_at_the_right(fake):
    table = fake.part("checks", 0).shown.table
    assert [is_words(table, place) for place in range(4)] == [True, False, False, True]
    first, second = to_text(table).splitlines()[2:]
    assert first.index("1.2e-05") + len("1.2e-05") == second.index("-3") + len("-3")
    assert first.index("random") == second.index("trained")


def test_closed_form_csv():
    rows = list(csv.reader(io.StringIO(to_csv(SMALL))))
    assert rows == [
        ["Method", "Error, %", "Error low", "Error high", "Rise, nats", "Rise spread"],
        ["at_awp", "8.25", "7", "9.75", "0.5", "0.125"],
        ["a & <b>", "", "", "", "-0.001", ""],
    ]


def test_closed_form_latex():
    assert to_latex(SMALL).splitlines() == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"Method & Error, \% & Rise, nats \\",
        r"\midrule",
        r"at\_awp & 8.2 [7.0, 9.8] & 0.50 $\pm$ 0.12 \\",
        r"a \& $<$b$>$ & -- & 0.00 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
