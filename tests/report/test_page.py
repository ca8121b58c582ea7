import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from robustscape.report.page import page, write_report
from robustscape.results import read_json, save, write_json
from robustscape.runs import read_runs

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


def test_contract_the_page_is_well_formed_and_labelled(parsed):
    tags = [tag for tag, _ in parsed.tags]
    assert (
        dict(parsed.tags[0][1]) == {"lang": "en"} and tags.count("h1") == tags.count("title") == tags.count("main") == 1
    )
    assert len(parsed.ids) == len(set(parsed.ids))
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(attrs["alt"] for tag, attrs in parsed.tags if tag == "img")
    assert tags.count("table") == tags.count("caption") == 5
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
    assert list(charts) == ["curves-robust", "curves-clean", "slices-loss", "slices-error", "scatter", "histogram"]
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


def test_contract_the_file_is_written_whole_and_the_same_twice(fake, tmp_path):
    run = fake.run(tmp_path / "at", name="at", whole=False)
    out = write_report([run], tmp_path / "new" / "page.html")
    assert out == tmp_path / "new" / "page.html"
    assert write_report([run], tmp_path) == tmp_path / "report.html"
    assert out.read_bytes() == (tmp_path / "report.html").read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]
