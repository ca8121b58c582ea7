"""Folders and zips of images: their order, their pixels, and every way in which they can be wrong."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch

from robustscape.data.folder import Folder
from robustscape.types import BadInput, DataSource, Splits

Image = pytest.importorskip("PIL.Image")


def png(value: int, size: tuple[int, int] = (5, 4), mode: str = "RGB") -> bytes:
    content = io.BytesIO()
    Image.new(mode, size, value if mode == "L" else (value, 2 * value, 255)).save(content, "PNG")
    return content.getvalue()


def bmp(value: int) -> bytes:
    """An image whose file is as large whatever its pixels are."""
    content = io.BytesIO()
    Image.new("RGB", (5, 4), (value,) * 3).save(content, "BMP")
    return content.getvalue()


def noise(seed: int) -> bytes:
    """An image of 6 by 4 pixels, no two alike."""
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def members(n: int) -> dict[str, bytes]:
    """Files of two classes, cat's pixels 10 + its number and dog's 60 + its number."""
    return {f"{name}/{i}.png": png(base + i) for name, base in (("dog", 60), ("cat", 10)) for i in range(n)}


def laid(folder: Path, files: dict[str, bytes], form: str) -> None:
    if form == "zip":
        folder.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(folder.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.delenv("ROBUSTSCAPE_DATA", raising=False)


def loaded(path: Path) -> Splits:
    return Folder(path=str(path), validation=4).load(seed=0)


@pytest.mark.parametrize("form", ["zip", "folder"])
def test_closed_form_order_labels_and_pixels(tmp_path: Path, form: str):
    laid(tmp_path / "set" / "train", members(12), form)
    laid(tmp_path / "set" / "test", members(11), form)
    splits = loaded(tmp_path / "set")
    # classes in turn, numbers as numbers: cat 0, dog 0, cat 1, ... dog 10
    assert splits.test.x[:, 0, 0, 0].tolist() == [base + i for i in range(11) for base in (10, 60)]
    assert splits.test.y.tolist() == [0, 1] * 11
    assert torch.equal(splits.test.index, torch.arange(22))
    assert splits.test.x.shape == (22, 3, 4, 5)
    assert splits.test.x[0, :, 3, 4].tolist() == [10, 20, 255]
    assert torch.bincount(splits.validation.y).tolist() == [2, 2]
    assert torch.bincount(splits.train.y).tolist() == [10, 10]
    assert splits.train.classes == ("cat", "dog")
    assert (splits.train.name, splits.test.name) == ("set, train", "set, test")
    assert isinstance(Folder(), DataSource)


def test_contract_changed_files_are_decoded_again_and_unchanged_ones_are_not(tmp_path: Path):
    for split in ("train", "test"):
        laid(tmp_path / "set" / split, members(4), "zip")
    first = loaded(tmp_path / "set")
    cached = sorted((tmp_path / "cache").rglob("*.npy"))
    again = loaded(tmp_path / "set")
    assert torch.equal(first.test.x, again.test.x)
    assert sorted((tmp_path / "cache").rglob("*.npy")) == cached
    laid(tmp_path / "set" / "test", members(4) | {"cat/0.png": png(99)}, "zip")
    assert loaded(tmp_path / "set").test.x[0, 0, 0, 0] == 99


def test_contract_grey_images_have_one_channel(tmp_path: Path):
    for split in ("train", "test"):
        laid(tmp_path / "set" / split, {name: png(7, mode="L") for name in members(4)}, "folder")
    x = loaded(tmp_path / "set").test.x
    assert x.shape == (8, 1, 4, 5) and np.unique(x).tolist() == [7]


@pytest.mark.parametrize("grey", ["cat/0.png", "cat/2.png", "dog/3.png"])
def test_contract_grey_images_among_coloured_ones_are_taken_as_coloured(tmp_path: Path, grey: str):
    for split in ("train", "test"):
        laid(tmp_path / "set" / split, members(4) | {grey: png(7, mode="L")}, "folder")
    test = loaded(tmp_path / "set").test.x
    place = [f"{name}/{i}.png" for i in range(4) for name in ("cat", "dog")].index(grey)
    assert test.shape == (8, 3, 4, 5) and test[place].unique().tolist() == [7]
    red = [base + i for i in range(4) for base in (10, 60)]
    red[place] = 7
    assert test[:, 0, 1, 1].tolist() == red
    assert test[:, 2].flatten(1).amin(1).tolist() == [7 if n == place else 255 for n in range(8)]


def test_contract_folders_with_the_same_names_sizes_and_times_are_two(tmp_path: Path):
    for place, value in (("one", 10), ("two", 90)):
        for split in ("train", "test"):
            laid(tmp_path / place / split, {name: bmp(value) for name in members(4)}, "folder")
    for path in tmp_path.rglob("*.png"):
        os.utime(path, (0, 0))
    assert loaded(tmp_path / "one").test.x.unique().tolist() == [10]
    assert loaded(tmp_path / "two").test.x.unique().tolist() == [90]


def test_contract_found_under_the_environment_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for split in ("train", "test"):
        laid(tmp_path / "data" / "set" / split, members(4), "zip")
    monkeypatch.setenv("ROBUSTSCAPE_DATA", str(tmp_path / "data"))
    assert len(Folder(path="set", validation=4).load(seed=0).test) == 8
    with pytest.raises(BadInput, match="there is no folder 'sett'"):
        Folder(path="sett").load(seed=0)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"cat/1.png": png(1, size=(6, 4))}, "resize them first"),
        ({"cat/1.png": b"no image"}, r"cat/1.png in .*train(.zip)? is not an image"),
        ({"cat/1.png": png(1)[:45]}, r"cat/1.png in .* is not an image, or was cut short"),
        ({"cow/1.png": png(1)}, "has classes .*'cow'.* in train"),
    ],
)
@pytest.mark.parametrize("form", ["zip", "folder"])
def test_contract_images_that_do_not_fit_are_refused(tmp_path: Path, form: str, changes: dict, sentence: str):
    laid(tmp_path / "set" / "train", members(4) | changes, form)
    laid(tmp_path / "set" / "test", members(4), form)
    with pytest.raises(BadInput, match=sentence):
        loaded(tmp_path / "set")


def test_contract_a_missing_split_is_refused(tmp_path: Path):
    laid(tmp_path / "set" / "train", members(4), "zip")
    with pytest.raises(BadInput, match=r"neither test.zip nor a folder test"):
        loaded(tmp_path / "set")


def test_contract_one_class_is_refused(tmp_path: Path):
    laid(tmp_path / "set" / "train", {f"{i}.png": png(i) for i in range(5)}, "folder")
    laid(tmp_path / "set" / "test", members(4), "folder")
    with pytest.raises(BadInput, match="did you mean <class>/<image file>"):
        loaded(tmp_path / "set")


def test_contract_a_truncated_zip_is_refused(tmp_path: Path):
    for split in ("train", "test"):
        laid(tmp_path / "set" / split, members(4), "zip")
    path = tmp_path / "set" / "train.zip"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(BadInput, match=r"train.zip is damaged or was cut short"):
        loaded(tmp_path / "set")


@pytest.mark.parametrize("offset", [0, 3, 10, 20, 30])
def test_contract_an_altered_zip_is_refused(tmp_path: Path, offset: int):
    for split in ("train", "test"):
        laid(tmp_path / "set" / split, members(4), "zip")
    path = tmp_path / "set" / "train.zip"
    content = bytearray(path.read_bytes())
    content[30 + len("dog/0.png") + offset] ^= 0xFF  # the first member's data begin after its header and name
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"dog/0.png in .*train.zip is damaged"):
        loaded(tmp_path / "set")


@pytest.mark.parametrize("fields", [{"per_class": 0}, {"validation": 0}, {"validation": 1.0}, {"shrink": 0}])
def test_contract_impossible_fields_are_refused(fields: dict):
    with pytest.raises(BadInput):
        Folder(**fields)


def test_closed_form_shrunk_images_are_means_of_squares(tmp_path: Path):
    files = {f"{name}/{i}.png": noise(4 * label + i) for label, name in enumerate(("cat", "dog")) for i in range(4)}
    for split in ("train", "test"):
        laid(tmp_path / "set" / split, files, "folder")
    whole, small = (Folder(path=str(tmp_path / "set"), validation=4, shrink=by).load(seed=0) for by in (1, 2))
    squares = whole.test.x.double().view(8, 3, 2, 2, 3, 2).mean(dim=(3, 5))
    assert torch.equal(small.test.x, squares.round().to(torch.uint8)) and small.test.x.shape[2:] == (2, 3)
    assert torch.equal(small.train.y, whole.train.y) and torch.equal(small.validation.index, whole.validation.index)
    assert small.test.name == "set at 2x3, test"
    with pytest.raises(BadInput, match="shrink 3 does not divide the 4x6 pixels of set"):
        Folder(path=str(tmp_path / "set"), validation=4, shrink=3).load(seed=0)


def test_contract_a_zip_of_everything_is_the_same_data_set(tmp_path: Path):
    """With train and test inside, in a folder of its own or not, found without its ending too."""
    for split in ("train", "test"):
        laid(tmp_path / "set" / split, members(4), "folder")
    plain = loaded(tmp_path / "set")
    for top in ("", "photos/"):
        files = {f"{top}{split}/{name}": content for split in ("train", "test") for name, content in members(4).items()}
        laid(tmp_path / "all", files | {f"{top}README.md": b"", "train/notes.txt": b""}, "zip")
        for name in ("all.zip", "all"):
            splits = loaded(tmp_path / name)
            assert torch.equal(splits.train.x, plain.train.x) and torch.equal(splits.train.index, plain.train.index)
            assert torch.equal(splits.test.y, plain.test.y) and splits.test.name == "all, test"


def test_contract_a_zip_without_a_split_is_refused(tmp_path: Path):
    laid(tmp_path / "all", {f"train/{name}": content for name, content in members(4).items()}, "zip")
    with pytest.raises(BadInput, match=r"has no images in test/<class>/"):
        loaded(tmp_path / "all.zip")


def test_contract_classes_by_their_place(tmp_path: Path):
    for split in ("train", "test"):
        laid(tmp_path / "set" / split, members(6) | {f"ape/{i}.png": png(i) for i in range(6)}, "zip")
    source = Folder(path=str(tmp_path / "set"), classes=(2, 0), per_class=3, validation=2)
    splits = source.load(seed=0)
    assert splits.train.classes == ("dog", "ape") and torch.bincount(splits.train.y).tolist() == [3, 3]
    assert splits.test.name == "set (classes 2, 0), test"
    with pytest.raises(BadInput, match="from 0 to 2"):
        Folder(path=str(tmp_path / "set"), classes=(2, 3), validation=2).load(seed=0)


def test_contract_images_of_another_size_in_test_are_refused(tmp_path: Path):
    laid(tmp_path / "set" / "train", members(4), "zip")
    laid(tmp_path / "set" / "test", {name: png(1, size=(7, 7)) for name in members(4)}, "zip")
    with pytest.raises(BadInput, match="another size in train than in test"):
        loaded(tmp_path / "set")


def drawn(mode: str, **size: int) -> bytes:
    content = io.BytesIO()
    Image.new(mode, (size.get("width", 5), size.get("height", 4))).save(content, "PNG")
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (drawn("I;16"), "more than 8 bits"),
        (drawn("1", width=5000, height=5000), "has 5000 x 5000 pixels"),
        (drawn("1", width=12000, height=12000), "is not an image, or was cut short|has 12000 x 12000 pixels"),
    ],
    ids=["16 bits", "huge", "bomb"],
)
def test_contract_images_that_are_too_much_are_refused(tmp_path: Path, content: bytes, sentence: str):
    for split in ("train", "test"):
        laid(tmp_path / "set" / split, members(4) | {"cat/0.png": content}, "zip")
    with pytest.raises(BadInput, match=sentence):
        loaded(tmp_path / "set")


def test_contract_a_drawing_that_is_a_program_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Pillow gives PostScript to a program of the system, whatever the file's ending."""
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("it was run"))
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 4\n%%EndComments\n%%EOF\n"
    for split in ("train", "test"):
        laid(tmp_path / "set" / split, members(4) | {"cat/0.png": drawing}, "folder")
    with pytest.raises(BadInput, match="it is none of JPEG, PNG, BMP, WEBP"):
        loaded(tmp_path / "set")
