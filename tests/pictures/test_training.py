from dataclasses import replace

import pytest

from robustscape.figures.all import draw
from robustscape.pictures.all import shown
from robustscape.results import read_json, write_json
from robustscape.runs import read_runs
from robustscape.training.log import TrackedStep, TrainingLog, read_log, write_log


def _logged(fake, folder, *, steps, split):
    fake.run(folder, name="at")
    document = read_json(folder / "run.json")
    document["run"]["training"] |= {"track_first": 2, "track_last": 1}
    write_json(folder / "run.json", document)
    entries = list(read_log(folder / "log.jsonl").epochs)
    for place, entry in enumerate(entries if split else ()):
        tracked = {
            name: replace(of, correct_robust_loss=0.2, incorrect_robust_loss=None if place == 0 else 2.0 + place)
            for name, of in entry.tracked.items()
        }
        entries[place] = replace(entry, tracked=tracked)
    for place, numbers in ((0, (0, 1)), (19, (1999,))) if steps else ():
        made = tuple(TrackedStep(step=k, gradient_norm=0.5 + k, robust_error=0.25, distance=float(k)) for k in numbers)
        entries[place] = replace(entries[place], steps=made)
    write_log(folder / "log.jsonl", TrainingLog(epochs=tuple(entries)))
    return folder


def _found(folder):
    return [each.picture for each in shown(read_runs([folder])) if each.stem == "training"]


def test_contract_losses_are_drawn_by_set_and_by_clean_prediction(fake, tmp_path):
    (picture,) = _found(_logged(fake, tmp_path / "at", steps=False, split=True))
    assert [plot.title for plot in picture.plots] == [
        "All examples",
        "Correct without attack",
        "Misclassified without attack",
    ]
    whole, _, wrong = picture.plots
    assert [trace.style for trace in whole.traces] == ["dot", "solid"]
    assert whole.traces[0].y.tolist() == [0.5] * 20
    assert wrong.traces[1].x.tolist() == list(range(2, 21)) and wrong.traces[1].y[0] == 3.0
    assert "validation, n = 1,200" in picture.how[1]


@pytest.mark.slow
def test_contract_the_first_steps_stand_apart_from_the_last(fake, tmp_path):
    folder = _logged(fake, tmp_path / "at", steps=True, split=False)
    (picture,) = _found(folder)
    assert [plot.title for plot in picture.plots] == ["First steps"] * 3 + ["Last steps"] * 3
    assert [plot.traces[0].x.tolist() for plot in picture.plots] == [[0, 1]] * 3 + [[1999]] * 3
    assert picture.plots[1].traces[0].y.tolist() == [25, 25] and picture.plots[3].traces[0].y.tolist() == [1999.5]
    assert tmp_path / "out" / "training.pdf" in draw(folder, tmp_path / "out")


def test_contract_logs_with_neither_have_no_picture(fake, tmp_path):
    assert _found(_logged(fake, tmp_path / "at", steps=False, split=False)) == []
