"""What speaks against a number is said where the number is."""

from __future__ import annotations

from dataclasses import replace

from robustscape.evaluation.result import Finding
from robustscape.report.doubts import doubts, looks
from robustscape.report.words import cautions
from robustscape.runs import read_folders


def test_closed_form_findings_that_fired_and_stronger_attacks_are_sentences(fake, tmp_path):
    (folder,) = read_folders([fake.run(tmp_path / "at", name="at")]).runs
    main = folder.results["evaluation-last-test"]
    fired = Finding(name="black box", fired=True, evidence="Square fools 5 of 120", value=0.04, limit=0.03, n=120)
    quiet = replace(fired, name="FGSM", fired=False)
    looked = replace(main, findings=(fired, quiet))
    stronger = replace(main, robust_error=replace(main.robust_error, value=0.75), attack="AutoAttack")
    weaker = replace(main, robust_error=replace(main.robust_error, value=0.0), attack="one step")
    files = {
        "evaluation-last-test": looked,
        "evaluation-last-test-by-autoattack": stronger,
        "evaluation-last-test-by-wu": weaker,
        "evaluation-last-test-under-linf-0.2": replace(stronger, eps=0.2),
    }
    folder = replace(folder, results=folder.results | files)
    was = f"{100 * main.robust_error.value:.1f} %"
    found = doubts([folder])
    assert found == [
        f"{folder.label}, seed 0, last test: black box: Square fools 5 of 120.",
        f"{folder.label}, seed 0: the robust error is 75.0 % under AutoAttack, not {was} as the summary's attacks "
        "found.",
    ]
    assert looks([folder]) == 2 and cautions([folder])[-2:] == found
    assert doubts([replace(folder, results={"evaluation-last-test": main})]) == []
