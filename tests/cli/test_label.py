"""``robustscape label``: which images, which classes, and what is in the file."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from robustscape.cli import main
from robustscape.data.digits import Digits
from robustscape.data.folder import read_images
from robustscape.types import BadInput

TINY = ["--training.epochs", "1", "--training.track", "20", "--model.width", "2", "--training.batch-size", "300"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("label") / "run"
    words = ["--unlabelled.hide", "0.5", "--objective.attack.steps", "1"]
    assert main(["train", "digits_at", *TINY, *words, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def linear(tmp_path):
    """Weights of a linear layer that tells digits apart: the classes' mean images."""
    images = Digits().load(seed=0).train
    x = images.pixels().flatten(1)
    means = torch.stack([x[images.y == digit].mean(0) for digit in range(10)])
    torch.save({"linear.weight": 10 * means, "linear.bias": -5 * means.square().sum(1)}, tmp_path / "means.pt")
    return str(tmp_path / "means.pt")


@pytest.fixture
def folder(tmp_path):
    """Twelve digits as images in folders that say nothing of their classes; "2.png" comes before "10.png"."""
    images = Digits().load(seed=0).test.take(slice(0, 12))
    for number, pixels in enumerate(images.x.numpy()):
        path = tmp_path / "some" / "deep" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[0]).save(path)
    return tmp_path / "some", images


def test_closed_form_images_in_any_folders_are_read_in_the_order_of_their_names(folder):
    place, images = folder
    found = read_images(str(place))
    assert torch.equal(found.x, images.x) and found.classes == ("unlabelled",)
    (place / "empty").mkdir()
    with pytest.raises(BadInput, match="holds no images"):
        read_images(str(place / "empty"))


def test_end_to_end_images_without_labels_are_read_from_an_array(run, folder, tmp_path, capsys):
    np.savez(tmp_path / "pixels.npz", x=folder[1].x.numpy())
    found = []
    for images in (tmp_path / "pixels.npz", folder[0]):
        assert main(["label", str(run), "--images", str(images), "--to", str(tmp_path / f"{images.stem}-y.npz")]) == 0
        with np.load(tmp_path / f"{images.stem}-y.npz") as stored:
            found.append((stored["x"].tobytes(), stored["y"].tolist(), stored["classes"].tolist()))
    assert found[0] == found[1] and "as in" not in capsys.readouterr().out
    np.savez(tmp_path / "other.npz", y=np.arange(3))
    assert main(["label", str(run), "--images", str(tmp_path / "other.npz")]) == 2
    assert "has no array x; it holds: y" in capsys.readouterr().err


def test_end_to_end_a_run_labels_what_was_hidden_from_it(run, tmp_path, capsys):
    path = tmp_path / "a.npz"
    assert main(["label", str(run), "--to", str(path), "--checkpoint", "last", "--n", "40"]) == 0
    assert capsys.readouterr().out.startswith(f"wrote {path}: 40 images, mean confidence 0.")
    with np.load(path) as stored:
        assert stored["x"].shape == (40, 1, 8, 8) and stored["classes"].tolist() == [str(digit) for digit in range(10)]
        assert 0.1 <= stored["confidence"].min() <= stored["confidence"].max() <= 1
        about = json.loads(str(stored["provenance"]))
    assert about["model"] == f"{run}, last" and about["data"] == "Digits, train, hidden part, first 40"
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]
    assert main(["label", str(run), "--to", str(path)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_end_to_end_anyones_model_labels_images_in_folders(linear, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    place, images = folder
    words = ["label", linear, "--architecture", "linear", "--data", "digits", "--images", str(place), "--out", "to"]
    assert main(words) == 0
    assert "as in" not in capsys.readouterr().out  # nothing is known of these images
    with np.load(tmp_path / "to" / "pseudo_labels.npz") as stored:
        assert np.array_equal(stored["x"], images.x.numpy())
        assert float((stored["y"] == images.y.numpy()).mean()) > 0.7
        assert stored["classes"].tolist() == list(images.classes)


@pytest.mark.slow
def test_contract_what_cannot_be_labelled_is_refused_in_one_sentence(run, folder, tmp_path, capsys):
    np.savez(tmp_path / "rgb.npz", **{f"{k}_{part}": v for part in ("train", "test") for k, v in _colours().items()})
    for words, sentence in (
        ([], "label needs one network"),
        ([str(run), str(run)], "label needs one network"),
        ([str(run), "--to", "labels.csv"], "must name an .npz file"),
        ([str(run), "--images", str(folder[0]), "--splits", "test"], "leave one of the two out"),
        ([str(run), "--data", "digits", "--data.test", "0.4", "--splits", "hidden"], "no labels of these data"),
        (
            [str(run), "--data", "npz", "--data.path", str(tmp_path / "rgb.npz")],
            "cannot take images of shape (3, 8",
        ),
        ([str(run), "--n", "0"], "n must be at least 1"),
    ):
        assert main(["label", *words]) == 2
        err = capsys.readouterr().err
        assert sentence in err and err.count("\n") == 1
    assert not (run / "pseudo_labels.npz").exists()


def _colours():
    return {"x": np.zeros((20, 3, 8, 8), np.uint8), "y": np.arange(20) % 2}
