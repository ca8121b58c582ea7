from dataclasses import replace

import pytest

from robustscape.pictures.all import shown
from robustscape.pictures.plot import sentences
from robustscape.results import save
from robustscape.runs import read_runs
from robustscape.training.log import write_log


def through(folder):
    return next(each.picture for each in shown(read_runs([folder])) if each.stem == "epochs")


def test_contract_numbers_through_training_and_the_way_of_a_run(fake, tmp_path):
    run = fake.run(tmp_path / "at", name="at", whole=False)
    for epoch, rise in ((2, 0.1), (10, 0.3)):
        save(fake.flatness(rise, 0.1 + rise), run / "results" / f"flatness-epoch-{epoch:04d}.json")
    (found,) = shown(read_runs([run]))
    numbers, way = found.picture.plots
    assert (found.stem, found.checkpoint, dict(found.runs)) == ("epochs", "", {"at": 1})
    assert numbers.traces[0].x.tolist() == [2, 10] and numbers.traces[0].y.tolist() == [0.1, 0.3]
    (trace,) = way.traces
    assert trace.shade is not None and trace.shade.tolist() == [2, 10] and way.z == "epoch"
    assert trace.x.tolist() == [0.1, 0.3]


def test_contract_an_epoch_is_shown_where_there_is_nothing_else(fake, tmp_path):
    run = fake.run(tmp_path / "at", name="at", whole=False)
    for epoch in (2, 10):
        save(fake.slices(0.1, 1.0), run / "results" / f"slices-epoch-{epoch:04d}.json")
    _, found = shown(read_runs([run]), every=True)
    assert (found.stem, found.checkpoint) == ("slices", "epoch-0010")
    save(fake.slices(0.1, 1.0), run / "results" / "slices-last.json")
    save(fake.slices(0.1, 1.0), run / "results" / "slices-best.json")
    assert [each.checkpoint for each in shown(read_runs([run]), every=True)][1:] == ["last", "best"]
    assert [each.checkpoint for each in shown(read_runs([run]))][1:] == ["last"]


@pytest.mark.parametrize(("logged", "last"), [(True, 12), (False, 20)])
def test_contract_the_last_checkpoint_is_the_last_epoch(fake, tmp_path, logged, last):
    run = fake.run(tmp_path / "at", name="at", whole=False)
    if logged:
        write_log(run / "log.jsonl", fake.log(0.1, 0.05, epochs=12))
    for name, rise in (("epoch-0004", 0.1), ("epoch-0008", 0.2), ("last", 0.4)):
        save(fake.flatness(rise, 0.1 + rise), run / "results" / f"flatness-{name}.json")
    numbers, way = through(run).plots
    assert numbers.traces[0].x.tolist() == way.traces[0].shade.tolist() == [4, 8, last]
    assert numbers.traces[0].y.tolist() == way.traces[0].x.tolist() == [0.1, 0.2, 0.4]


def test_contract_a_last_checkpoint_that_was_measured_otherwise_ends_nothing(fake, tmp_path):
    run = fake.run(tmp_path / "at", name="at", whole=False)
    for name in ("epoch-0004", "epoch-0008", "epoch-0020"):
        save(fake.flatness(0.1, 0.2), run / "results" / f"flatness-{name}.json")
    save(replace(fake.flatness(0.7, 0.2), n=400), run / "results" / "flatness-last.json")
    assert through(run).plots[0].traces[0].y.tolist() == [0.1] * 3
    save(fake.flatness(0.7, 0.2), run / "results" / "flatness-last.json")  # what was watched stays
    assert through(run).plots[0].traces[0].y.tolist() == [0.1] * 3


def test_contract_all_images_are_named(fake, tmp_path):
    run = fake.run(tmp_path / "at", name="at", whole=False)
    for epoch in ("0004", "0008"):
        save(fake.flatness(0.1, 0.2), run / "results" / f"flatness-epoch-{epoch}.json")
    assert "Test, n = 500." in sentences(through(run).how)
    for epoch in ("0004", "0008"):
        save(replace(fake.slices(0.1, 0.2), n=40, split="train"), run / "results" / f"slices-epoch-{epoch}.json")
    assert "Flatness: test, n = 500; slices: train, n = 40." in sentences(through(run).how)
