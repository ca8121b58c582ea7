from dataclasses import replace

import numpy as np
import torch

from robustscape.landscape.spectrum import Spectrum, SpectrumResult
from robustscape.pictures.all import shown
from robustscape.pictures.plot import sentences
from robustscape.report.tables import summary
from robustscape.results import load, provenance, save
from robustscape.runs import read_runs


def change(folder, file, **fields):
    path = folder / "results" / f"{file}.json"
    save(replace(load(path), **fields), path)


def spectrum(*coordinates, model):
    settings = Spectrum(attack=None, k=2, coordinates=coordinates, random_weights=0)
    C = len(coordinates)
    values = np.array([[[2.0, 1.0]] * C])
    ends = np.array([[[-1.0]] * C])
    return SpectrumResult(
        losses=("clean",),
        coordinates=coordinates,
        eigenvalues=values,
        residuals=values / 1000,
        converged=values > 0,
        smallest=ends,
        smallest_residuals=ends,
        smallest_converged=ends < 0,
        ratio=np.full((1, C), 0.5),
        spectral_norm=np.full((1, C), 2.0),
        nuclear_norm=np.full((1, C), 3.0),
        normalised=values[..., :0],
        random_losses=np.zeros((1, 0)),
        loss=np.ones(1),
        products=np.full((1, C), 5),
        curvature="held",
        tolerance=0.01,
        scope="all",
        attack="",
        n=10,
        split="test",
        provenance=provenance(
            seconds=1.0,
            device=torch.device("cpu"),
            precision="float32",
            seed=0,
            model=model,
            data="digits",
            settings=settings,
        ),
    )


def test_contract_seeds_that_were_measured_otherwise_are_left_out_and_named(fake, tmp_path):
    folders = [fake.run(tmp_path / f"at-{seed}", name="at", seed=seed, rise=0.1 + seed) for seed in range(3)]
    change(folders[1], "slices-last", n=400)
    change(folders[1], "flatness-last", n=400)
    runs = read_runs(folders)
    one = next(each for each in shown(runs) if each.stem == "slices")
    assert dict(one.runs) == {"at": 2}
    assert "Measured otherwise, or of other layers, and left out: at (1)." in sentences(one.picture.care)
    table = summary(runs)
    (cell,) = (row[[c.name for c in table.columns].index("Flatness")] for row in table.rows)
    assert cell.value == (0.1 + 2.1) / 2


def test_contract_every_split_of_the_last_checkpoint_has_a_picture(fake, tmp_path):
    folders = [fake.run(tmp_path / f"at-{seed}", name="at", seed=seed, whole=False) for seed in range(2)]
    for folder, plain, other in zip(folders, ("test", "train"), ("train", "test"), strict=True):
        for split, file in ((plain, "slices-last"), (other, f"slices-last-{other}"), ("test", "slices-best")):
            save(replace(fake.slices(0.1, 1.0), split=split), folder / "results" / f"{file}.json")
    (folders[1] / "results" / "slices-last-test.json").unlink()
    runs = read_runs(folders)
    test, train = shown(runs)
    assert (test.split, test.file, dict(test.runs)) == ("test", "slices-last", {"at": 1})
    assert (train.split, train.file, dict(train.runs)) == ("train", "slices-last-train", {"at": 2})
    assert train.picture.title.endswith("directions: train images")
    assert [len(one.lacking) for one in (test, train)] == [1, 0]
    assert [one.file for one in shown(runs, every=True)] == ["slices-last", "slices-last-train", "slices-best"]
    assert not shown(read_runs(folders[1:]))[0].picture.title.endswith("images")


def test_contract_methods_that_were_measured_otherwise_are_not_drawn_together(fake, tmp_path):
    folders = [fake.run(tmp_path / name, name=name, weights={"gamma": name}, whole=False) for name in "abc"]
    for folder, coordinates in zip(folders, (("raw", "layer"), ("raw",), ("raw", "layer")), strict=True):
        save(spectrum(*coordinates, model=folder.name), folder / "results" / "spectrum-last.json")
    (one,) = shown(read_runs(folders))
    assert dict(one.runs) == {"a": 1, "b": 0, "c": 1} and "left out: b (1)" in sentences(one.picture.care)
    assert [plot.title for plot in one.picture.plots] == [
        "A step of 1 is 1 in every weight",
        "A step of 1 is the norm of each layer",
    ]


def test_contract_another_eps_is_drawn_together(fake, tmp_path):
    folders = [fake.run(tmp_path / name, name=name, weights={"gamma": name}) for name in "ab"]
    for folder, attack in zip(folders, ("PGD-5, linf 0.1", "PGD-5, linf 0.3"), strict=True):
        change(folder, "slices-last", attack=attack)
    one = next(each for each in shown(read_runs(folders)) if each.stem == "slices")
    assert dict(one.runs) == {"a": 1, "b": 1} and "left out" not in sentences(one.picture.care)


def test_contract_an_eigenvalue_that_did_not_converge_is_a_hole_and_no_other_number(fake, tmp_path):
    run = fake.run(tmp_path / "at", name="at", whole=False)
    for epoch in (1, 2, 3):
        one = spectrum("raw", "layer", model="at")
        if epoch == 2:
            one = replace(one, converged=one.converged & np.array([False, True])[:, None])
        save(one, run / "results" / f"spectrum-epoch-{epoch:04d}.json")
    picture = next(each.picture for each in shown(read_runs([run])) if each.stem == "epochs")
    (plot,) = picture.plots
    assert plot.title == "Largest eigenvalue, raw" and plot.traces[0].x.tolist() == [1, 3]
