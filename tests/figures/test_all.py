import pytest

from robustscape.figures.all import draw
from robustscape.training.log import write_log
from robustscape.types import BadInput


@pytest.mark.slow
def test_end_to_end_every_figure_of_two_runs(tmp_path, fake):
    runs = [fake.run(tmp_path / f"at-{seed}", name="at", seed=seed) for seed in range(2)]
    with pytest.raises(BadInput, match="--out"):
        draw(runs)
    made = draw(runs, tmp_path / "out")
    shared = {"training-curves", "slices-last", "error-flatness-last", "error-flatness-best", "histograms-last"}
    assert {path.stem for path in made} == shared | {"images-last-at-0", "images-last-at-1"}
    assert all(path.read_bytes().startswith(b"%PDF") and path.parent == tmp_path / "out" for path in made)


def test_end_to_end_the_same_results_give_the_same_bytes(tmp_path, fake):
    run = fake.run(tmp_path / "at", name="at", whole=False)
    write_log(run / "log.jsonl", fake.log(0.1, 0.05))
    (path,) = draw(run)
    (again,) = draw(run, tmp_path / "again")
    assert path == run / "figures" / "training-curves.pdf"
    assert path.read_bytes() == again.read_bytes()
    assert b"/Type3" not in path.read_bytes()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_end_to_end_a_studys_figures_lie_beside_its_tables(tmp_path, fake):
    study = fake.study(tmp_path / "study")
    (path,) = draw(study)
    assert path == study / "figure.pdf" and path.read_bytes().startswith(b"%PDF")
    (elsewhere,) = draw([study], tmp_path / "out", form="pdf")
    assert elsewhere.name == "made_up-small-figure.pdf"
    assert elsewhere.read_bytes() == path.read_bytes()
    (study / "figure.json").unlink()
    with pytest.raises(BadInput, match="nothing to draw"):
        draw(study)


def test_contract_nothing_to_draw_is_said(tmp_path, fake):
    run = fake.run(tmp_path / "bare", name="at", whole=False)
    with pytest.raises(BadInput, match="nothing to draw"):
        draw(run)
    assert not (run / "figures").exists()
