import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from robustscape.report.page import page, write_report
from robustscape.results import read_json, save, write_json
from robustscape.runs import read_folders, read_runs

VOID = {"meta", "link", "img", "path", "br"}
NASTY = "</script><img src=x onerror=alert(1)>&\"'"


class Page(HTMLParser):
    """Checks that every element is closed in order; collects what the tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.scripts, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.scripts if self.open and self.open[-1] == "script" else self.words).append(data)


@pytest.fixture(scope="module")
def text(fake, tmp_path_factory):
    return page(read_runs(fake.tree(tmp_path_factory.mktemp("tree"))))


@pytest.fixture(scope="module")
def parsed(text):
    return Page(text)


@pytest.mark.slow
def test_contract_the_page_is_well_formed_and_labelled(parsed):
    tags = [tag for tag, _ in parsed.tags]
    assert (
        dict(parsed.tags[0][1]) == {"lang": "en"} and tags.count("h1") == tags.count("title") == tags.count("main") == 1
    )
    assert len(parsed.ids) == len(set(parsed.ids))
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(attrs["alt"] for tag, attrs in parsed.tags if tag == "img")
    assert tags.count("table") - 1 == tags.count("caption") == 8  # one is folded, under its summary
    assert all(attrs["aria-label"] for tag, attrs in parsed.tags if attrs.get("role") in {"img", "region", "group"})
    references = {attrs["href"][1:] for tag, attrs in parsed.tags if tag == "a"}
    labelled = {attrs["aria-labelledby"] for _, attrs in parsed.tags if "aria-labelledby" in attrs}
    assert references | labelled <= set(parsed.ids)


def test_contract_the_page_refers_to_nothing_outside_itself(parsed):
    addresses = [attrs[name] for _, attrs in parsed.tags for name in ("src", "href", "action") if name in attrs]
    assert addresses and all(address.startswith(("data:", "#")) for address in addresses)
    (policy,) = [attrs["content"] for _, attrs in parsed.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy and "http" not in policy


def test_contract_every_chart_has_its_place(parsed):
    charts = json.loads(parsed.scripts[0])
    assert list(charts) == [
        "curves-robust", "curves-clean", "measured-slices-1", "measured-slices-2", "measured-flatness-1", "scatter",
        "relation-errors", "relation",
        "relation-gap", "relation-late", "histogram",
    ]  # fmt: skip
    assert set(charts) <= set(parsed.ids)


def test_contract_the_first_screen_answers(parsed):
    words = " ".join(parsed.words)
    assert words.index("stay robust.") < words.index("Robust error, last") < words.index("Read with care")


def test_contract_words_from_files_are_escaped(fake, tmp_path):
    run = fake.run(tmp_path / "at", name=NASTY)
    made = replace(fake.images(), classes=(NASTY, *fake.CLASSES[1:]), attack=NASTY)
    save(made, run / "results" / "images-last.json")
    judged = replace(fake.evaluation(0.02, 0.1), classes=made.classes, attack=NASTY)
    save(judged, run / "results" / "evaluation-last-test.json")
    head = read_json(run / "run.json")
    head["run"]["note"] = NASTY
    write_json(run / "run.json", head)
    other = fake.run(tmp_path / "n", name="n")
    text = page(read_runs([run, other]))
    assert "<img src=x" not in text
    found = Page(text)
    assert "onerror" not in {name for _, attrs in found.tags for name in attrs}
    assert found.open == [] and sum(tag == "script" for tag, _ in found.tags) == 3
    json.loads(found.scripts[0])


def test_contract_what_is_missing_is_named_with_its_command(fake, tmp_path):
    run = fake.run(tmp_path / "with space", name="at", whole=False)
    found = Page(page(read_runs([run])))
    words = " ".join(found.words)
    for what in ("slices", "flatness", "histograms"):
        assert f"robustscape measure '{run}' {what}" in words
    assert f"robustscape train RECIPE --out '{run}'" in words
    assert json.loads(found.scripts[0]) == {}
    (run / "results" / "evaluation-last-test.json").unlink()
    assert f"robustscape evaluate '{run}'" in " ".join(Page(page(read_runs([run]))).words)


@pytest.fixture(scope="module")
def of_studies(fake, tmp_path_factory):
    found = read_folders([fake.study(tmp_path_factory.mktemp("studies") / "made-up")])
    return Page(page(found.runs, found.studies))


def test_contract_studies_alone_show_their_parts_in_order_and_nothing_of_runs(of_studies):
    words = " ".join(of_studies.words)
    assert "made_up (scale small, 3 parts)" in words
    places = [words.index(f"A note on {name}.") for name in ("table", "figure", "checks")]
    assert places == sorted(places)
    assert not {"training", "landscape", "flatness", "images", "weights", "runs", "care"} & set(of_studies.ids)
    assert list(json.loads(of_studies.scripts[0])) == ["study-1-part-2-chart-1", "study-1-part-2-chart-2"]
    for term in ("Paper, difference", "Exact adversary", "Check", "Threat model"):
        assert term in words
    assert "Flatness" not in words


def test_contract_a_page_of_studies_is_well_formed_and_labelled(of_studies):
    tags = [tag for tag, _ in of_studies.tags]
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(of_studies.ids) == len(set(of_studies.ids)) and tags.count("main") == tags.count("h1") == 1
    references = {attrs["href"][1:] for tag, attrs in of_studies.tags if tag == "a"}
    assert references <= set(of_studies.ids) and len(references) == 4
    assert tags.count("details") == tags.count("table") == 3
    buttons = [attrs["data-group"] for tag, attrs in of_studies.tags if tag == "button"]
    assert buttons == [str(group) for group in range(10)]


def test_contract_numbers_stand_at_the_right_and_tables_of_long_words_stack(of_studies):
    kinds = [attrs.get("class", "") for tag, attrs in of_studies.tags if tag == "td"]
    assert kinds[:3] == ["", "", "words"] and "words long" in kinds
    assert [attrs["class"] for tag, attrs in of_studies.tags if tag == "table"] == ["wide", "wide", "wide stacked"]
    assert {attrs.get("data-name") for tag, attrs in of_studies.tags if tag == "td"} == {
        None, "Ours, %", "Worst", "Tested on"
    }  # fmt: skip


def test_contract_runs_and_studies_stand_on_one_page(fake, tmp_path):
    run, study = fake.run(tmp_path / "at", name="at"), fake.study(tmp_path / "study")
    save(fake.part("bad", 3, title=NASTY), study / "bad.json")
    found = read_folders([run, study])
    text = page(found.runs, found.studies)
    parsed = Page(text)
    assert "<img src=x" not in text
    assert len(parsed.ids) == len(set(parsed.ids))
    words = " ".join(parsed.words)
    assert words.index("Robust error, last") < words.index("A note on table.") < words.index("What each number means")
    assert {trace["meta"].get("of") for chart in json.loads(parsed.scripts[0]).values() for trace in chart["data"]} == {
        None, "study-1-part-2"
    }  # fmt: skip


def test_contract_the_file_is_written_whole_and_the_same_twice(fake, tmp_path):
    run = fake.run(tmp_path / "at", name="at", whole=False)
    out = write_report([run], tmp_path / "new" / "page.html")
    assert out == tmp_path / "new" / "page.html"
    assert write_report([run], tmp_path) == tmp_path / "report.html"
    assert out.read_bytes() == (tmp_path / "report.html").read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]
