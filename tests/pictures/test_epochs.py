from robustscape.pictures.all import shown
from robustscape.results import save
from robustscape.runs import read_runs


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
