from dataclasses import replace

import pytest

from robustscape.report.words import cautions, settings, verdict
from robustscape.results import save
from robustscape.runs import read_runs
from robustscape.training.log import TrainingLog, read_log, write_log


def test_contract_the_best_in_everything_is_named(fake, tmp_path):
    assert verdict(read_runs(fake.tree(tmp_path))) == (
        "at_awp has the lowest robust error at the end of training, 8.4 %, and the smallest gap to training and the "
        "flattest loss: the one to expect to stay robust."
    )


def test_contract_disagreement_is_said(fake, tmp_path):
    paths = [
        fake.run(tmp_path / "a", name="a", robust=0.08, gap=0.06, rise=0.2),
        fake.run(tmp_path / "b", name="b", robust=0.12, gap=0.02, rise=0.4, weights=fake.AWP),
    ]
    assert verdict(read_runs(paths)) == (
        "a has the lowest robust error at the end of training, 8.0 %, with the flattest loss, but b has the smallest "
        "gap to training."
    )


@pytest.mark.parametrize(
    ("robust", "begins"),
    [
        ((0.10, 0.105), "a has the lowest robust error at the end of training, 10.0 % (not clearly below b, 10.5 %)"),
        ((0.10, 0.99), "a classifies 90.0 % of the test images correctly under attack, 5.0 points fewer than of its "
                       "training images; no other method here does better than guessing."),
        ((0.95, 0.99), "None of these is robust"),
    ],
)  # fmt: skip
def test_contract_what_the_numbers_do_not_say_is_not_said(fake, tmp_path, robust, begins):
    settings = zip("ab", robust, (None, fake.AWP), strict=True)
    paths = [fake.run(tmp_path / n, name=n, robust=r, weights=w) for n, r, w in settings]
    for path, rate in zip(paths, robust, strict=True):  # as many of one as of the other on images of their own
        made = fake.evaluation(0.02, rate)
        flags = made.fooled if path.name == "a" else made.fooled[::-1]
        save(replace(made, fooled=flags), path / "results" / "evaluation-last-test.json")
    assert verdict(read_runs(paths)).startswith(begins)


def test_contract_without_evaluation_nothing_is_claimed(fake, tmp_path):
    run = fake.run(tmp_path / "a", name="a", whole=False)
    (run / "results" / "evaluation-last-test.json").unlink()
    assert "nothing can be said" in verdict(read_runs([run]))
    assert settings(read_runs([run])) == ""


def test_contract_cautions(fake, tmp_path):
    plain = cautions(read_runs([fake.run(tmp_path / "a", name="a")]))
    assert len(plain) == 2 and "one seed only" in plain[0] and "1,000 test images" in plain[1]
    other = fake.run(tmp_path / "b", name="b", weights=fake.AWP)
    judged = replace(fake.evaluation(0.02, 0.1, eps=0.1), attack="FGSM", index=fake.evaluation(0, 0).index + 1)
    save(judged, other / "results" / "evaluation-last-test.json")
    save(judged, other / "results" / "evaluation-best_on_test-test.json")
    save(replace(fake.flatness(0.1, 0.1), mode="as published"), other / "results" / "flatness-last.json")
    text = " ".join(cautions(read_runs([tmp_path / "a", other])))
    for part in ("different threat models", "different attacks", "same images", "selected on test", "as published",
                 "different ways"):  # fmt: skip
        assert part in text


def test_contract_a_gap_or_flatness_inside_the_others_interval_decides_nothing(fake, tmp_path):
    paths = [
        fake.run(tmp_path / "a", name="a", robust=0.08, gap=0.020, rise=0.20),
        fake.run(tmp_path / "b", name="b", robust=0.12, gap=0.021, rise=0.20, weights=fake.AWP),
    ]
    assert verdict(read_runs(paths)) == (
        "a has the lowest robust error at the end of training, 8.0 %; what was measured of gap and flatness does not "
        "tell the methods apart."
    )


def test_contract_warnings_of_the_guards_and_early_ends_are_cautions(fake, tmp_path):
    folder = fake.run(tmp_path / "a", name="a")
    log = read_log(folder / "log.jsonl")
    entries = [
        replace(entry, warnings=(f"dead layer: {entry.epoch}",) if 3 <= entry.epoch <= 5 else ())
        for entry in log.epochs[:7]
    ]
    entries[6] = replace(entries[6], stopped="no better epoch on validation for 4 epochs")
    write_log(folder / "log.jsonl", TrainingLog(epochs=tuple(entries)))
    found = cautions(read_runs([folder]))
    assert "a, seed 0: epoch 3: dead layer: 3, last seen in epoch 5 of 7." in found
    assert "a, seed 0: training stopped after epoch 7: no better epoch on validation for 4 epochs." in found
