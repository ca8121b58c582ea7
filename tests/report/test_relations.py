import csv
import io
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats as st

from robustscape.relations import LOSS, OUTCOMES, relations
from robustscape.report import relation_charts
from robustscape.report.page import page
from robustscape.report.relations import correlations, gaps, level_table, section, to_lines
from robustscape.report.tables import to_csv, to_latex, to_markdown
from robustscape.runs import read_runs


@pytest.fixture(scope="module")
def folders(fake, tmp_path_factory):
    return read_runs(fake.tree(tmp_path_factory.mktemp("tree")))


@pytest.fixture(scope="module")
def found(folders):
    return relations(folders)


def test_contract_every_definition_of_the_gap_has_a_column(folders):
    table = gaps(folders)
    assert [row[0] for row in table.rows] == ["natural", "at", "at_awp"]
    for name in ("Stutz", "Wu", "Yan", "Yamada", "Flatness"):
        assert any(name in column.name for column in table.columns)
    cells = {column.name: cell for column, cell in zip(table.columns, table.rows[1], strict=True)}
    assert cells["Test − train, robust error (Stutz)"].value == pytest.approx(7.4)
    assert cells["Last − best, robust error (Stutz)"].value == pytest.approx(1)
    assert cells["Flatness"].value == pytest.approx(0.44)
    assert gaps(read_runs([folders[1].path])).rows[0][0] == "at"


def test_reference_a_row_is_the_correlation_over_all_runs_and_within_methods(folders, found):
    table = correlations(found)
    assert len(table.rows) == len(found.measures) * len(OUTCOMES)
    cells = {column.name: cell for column, cell in zip(table.columns, table.rows[0], strict=True)}
    assert (cells["Measure"], cells["Goes with"], cells["Runs"].value) == ("Flatness", "Robust loss", 7)
    x = np.array([f.results["flatness-last"].robust.value for f in folders])
    y = np.array([f.results["evaluation-last-test"].robust_loss.value for f in folders])
    assert cells["Pearson"].value == pytest.approx(st.pearsonr(x, y).statistic)
    assert cells["Kendall"].value == pytest.approx(st.kendalltau(x, y).statistic)
    groups = np.array([f.group for f in folders])
    apart = [np.concatenate([v[groups == g] - v[groups == g].mean() for g in range(3)]) for v in (x, y)]
    assert cells["Within methods"].value == pytest.approx(st.pearsonr(*apart).statistic)


@pytest.mark.slow
def test_contract_tables_are_written_in_every_form(folders, found):
    table = correlations(found)
    rows = list(csv.reader(io.StringIO(to_csv(table))))
    assert len(rows) == 1 + len(table.rows) and "Pearson" in rows[0][3]
    assert to_latex(table).count("\\\\") == 1 + len(table.rows) and "Pearson" in to_markdown(table)
    text = to_lines(folders, width=100)
    assert max(map(len, text.splitlines())) <= 100
    assert text.index("Robust overfitting") < text.index("What goes with robustness, over 7 runs")


def test_contract_a_measure_that_is_the_same_in_every_run_has_no_row(folders, found):
    flat = {"Flatness": found.last[0].values["Flatness"]}
    same = tuple(replace(network, values={**network.values, **flat}) for network in found.last)
    fixed = replace(found, last=same)
    assert not any(row[0] == "Flatness" for row in correlations(fixed).rows)


def test_contract_charts_have_points_trends_and_arrows_of_every_measure(found):
    measures = list(found.measures)
    chart = relation_charts.outcome(found, LOSS, measures)
    assert chart["across"][0] == "Flatness, nats" and len(chart["across"]) == 3
    first = [trace for trace in chart["data"] if trace["meta"]["layer"] == 0]
    arrows = [trace for trace in first if trace["mode"] == "lines+markers"]
    lines = [trace for trace in first if trace["mode"] == "lines"]
    points = [trace for trace in first if trace["mode"] == "markers"]
    assert len(arrows) == 7 and {trace["meta"]["group"] for trace in lines} == {1, 2}
    assert [trace["name"] for trace in points] == [
        f"{label}, {checkpoint}" for label in ("natural", "at", "at_awp") for checkpoint in ("best", "last")
    ]
    slices = [trace for trace in chart["data"] if trace["meta"]["layer"] == 2]
    assert not any(trace["mode"] == "lines+markers" for trace in slices)
    assert slices[-1]["error_x"]["array"] == [None] * 3
    json.dumps(chart, allow_nan=False)


def test_contract_errors_are_split_at_ln_k(found):
    chart = relation_charts.errors(found)
    (kink,) = chart["layout"]["shapes"]
    assert kink["x0"] == pytest.approx(math.log(10))
    (line,) = [trace for trace in chart["data"] if trace["mode"] == "lines"]  # two networks alone lie above
    assert max(line["x"]) < math.log(10)


def test_end_to_end_fewer_than_four_runs_get_a_sentence(folders):
    drawn = {}
    html = section(folders[1:4], drawn)
    assert drawn == {} and "There are 3 runs judged alike: charts and correlations need 4." in html
    assert html.count("<table") == 1
    assert "There is 1 run judged alike" in section(folders[:1], {})


def test_end_to_end_the_page_shows_it_and_says_what_is_missing(fake, tmp_path):
    runs = [fake.run(tmp_path / f"at-{s}", name="<at>", seed=s, robust=0.1 + 0.1 * s, rise=0.2 + s) for s in range(4)]
    for run in runs:
        (run / "results" / "evaluation-best-test.json").unlink()
    text = page(read_runs(runs))
    words = re.sub(
        "<[^>]*>",
        "",
        text[text.index('id="relations"') : text.index('id="attacks"') if 'id="attacks"' in text else None],
    )
    assert "no evaluation of the best checkpoint on test" in words and "&lt;at&gt;" in words
    assert 'id="relation-gap"' in text and "<at>" not in text.split("<script")[0]


def test_end_to_end_good_average_and_poor_networks_or_why_there_are_none(folders, fake, tmp_path):
    assert "told apart of 10 runs and more; there are 7" in section(folders, {})
    runs = [fake.run(tmp_path / str(s), name="<at>", seed=s, robust=0.2 + 0.05 * s, rise=0.1 * s) for s in range(10)]
    drawn = {}
    html = section(read_runs(runs), drawn)
    assert "told apart" not in html and 'id="relation-levels"' in html
    *lines, points = drawn["relation-levels"]["data"]
    assert [line["y"] for line in lines] == [[pytest.approx(of)] * 2 for of in (0.1, 0.45, 0.8)]
    assert points["text"][0] == "&lt;at&gt;, seed 0<br>Robust error 20.0 %" and len(points["x"]) == 10
    (good, *_) = level_table(relations(read_runs(runs))).rows
    assert good[:2] == ("good", "below 33.5 %") and good[2].value == 3 and good[3].value == pytest.approx(25)


def test_contract_points_are_named(found):
    data = relation_charts.outcome(found, LOSS, list(found.measures))["data"]
    points = [trace for trace in data if trace["mode"] == "markers"]
    assert points[-1]["text"] == ["at_awp, seed 0, last", "at_awp, seed 1, last", "at_awp, seed 2, last"]
