"""What each attack came to, and what is said beside it."""

from __future__ import annotations

from dataclasses import replace

from robustscape.evaluation.intervals import wilson
from robustscape.evaluation.result import Searched
from robustscape.report.attacks import remarks
from robustscape.report.sections import attacks
from robustscape.runs import read_folders

QUIET = Searched(
    name="APGD-CE",
    attack="APGD",
    everyone=True,
    tried=50,
    flips=5,
    robust_error=wilson(5, 50),
    forwards=100,
    backwards=100,
    seconds=1.0,
    unconfirmed=0,
    again=0,
)


def test_closed_form_what_float32_corrected_and_few_classes_changed_is_said(fake, tmp_path):
    (folder,) = read_folders([fake.run(tmp_path / "at", name="at")]).runs
    corrected = replace(QUIET, name="Square", unconfirmed=3, again=2)
    few = replace(QUIET, name="APGD-T", note="2 targets <of> 3 classes")
    made = replace(folder.results["evaluation-last-test"], searches=(QUIET, corrected, few))
    folder = replace(folder, results={"evaluation-last-test": made})
    assert remarks([folder]) == [
        f"{folder.label}, seed 0, last test: Square: 3 successes of the search were not confirmed in float32; "
        "2 images were searched again in float32.",
        f"{folder.label}, seed 0, last test: APGD-T: 2 targets <of> 3 classes.",
    ]
    page = attacks([folder])
    assert "searched again in float32" in page and "2 targets &lt;of&gt; 3 classes" in page
    assert remarks([replace(folder, results={"evaluation-last-test": replace(made, searches=(QUIET,))})]) == []
