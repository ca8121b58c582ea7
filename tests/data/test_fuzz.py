"""A thousand damaged and hostile files: each is refused in one sentence or read, none runs, none leaves its place."""

import gzip
import io
import pickle
import random
import tarfile
import zipfile
from os import system

import numpy as np
import pytest

from robustscape.data._cifar import batches
from robustscape.data.fetch import read
from robustscape.data.folder import Folder
from robustscape.data.imagenet32 import read_batch
from robustscape.data.mnist import idx
from robustscape.data.npz import Npz
from robustscape.data.sources import Source
from robustscape.types import BadInput

Image = pytest.importorskip("PIL.Image")

QUICK, ALL = range(40), range(40, 125)


class Evil:
    """What touches a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return system, (f"touch {self.mark}",)


def damaged(content, rng, evil):
    """Return the bytes cut, flipped, overwritten, moved, repeated or replaced by a pickle that would run."""
    n = len(content)
    a, b = sorted(rng.sample(range(n + 1), 2))
    kind = rng.randrange(9)
    if kind == 0:
        return content[:a]
    if kind == 1:
        flipped = bytearray(content)
        for _ in range(rng.choice([1, 1, 3, 20])):
            flipped[rng.randrange(n)] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    if kind == 2:  # near the beginning, where the headers are
        return content[: a % 40] + rng.randbytes(4) + content[a % 40 + 4 :]
    if kind == 3:
        return content[:a] + rng.choice([b"\x00", b"\xff", b"\x7f"]) * min(b - a, 64) + content[a + min(b - a, 64) :]
    if kind == 4:
        return content[:a] + content[b:]
    if kind == 5:
        return content[:a] + content[a:b] * 2 + content[b:]
    if kind == 6:
        return content[b:] + content[:b]
    if kind == 7:
        return content[:a] + evil + content[a:]
    return evil


def zipped(files, compression=zipfile.ZIP_DEFLATED):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, inside in files.items():
            archive.writestr(name, inside)
    return content.getvalue()


def pictures():
    """Sixteen small images in the four formats, as the files of a zip."""
    files = {}
    for split in ("train", "test"):
        for i, form in enumerate(("PNG", "JPEG", "BMP", "WEBP") * 2):
            content = io.BytesIO()
            Image.new("RGB", (9, 7), (30 * i, 5, 200)).save(content, form)
            files[f"{split}/{'ab'[i // 4]}/{i}.{form.lower()}"] = content.getvalue()
    return files


def npy(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def arrays():
    x, y = np.arange(24 * 63).reshape(24, 9, 7).astype(np.uint8), np.arange(24) % 2
    return {"x_train.npy": npy(x), "y_train.npy": npy(y), "x_test.npy": npy(x[:6] / 255), "y_test.npy": npy(y[:6])}


def one_of(files, rng, evil):
    """Damage one file before they are packed, so that the archive's own checksums hold."""
    name = rng.choice(sorted(files))
    return zipped(files | {name: damaged(files[name], rng, evil)})


def tarred(files):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, inside in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(inside)
            archive.addfile(info, io.BytesIO(inside))
    return content.getvalue()


@pytest.fixture
def attempts(tmp_path, python2_batch, md5):
    """For each form: the whole file, how it is damaged, and how it is read."""
    data = np.arange(2 * 3072).astype(np.uint8).reshape(2, 3072)
    two = tarred({f"b/{i}": python2_batch(data, {"labels": [i, 7]}) for i in range(2)})
    new = pickle.dumps({"data": data, "labels": [1, 1000]}, protocol=4)
    digits = bytes((0, 0, 8, 2, 0, 0, 0, 6, 0, 0, 0, 9)) + bytes(54)
    source = Source(file="set.bin", addresses=(), archive_md5="0", content_md5=md5(b"the content " * 9))
    path = tmp_path / "in" / "set"
    path.parent.mkdir()

    def laid(content, ending=""):
        found = path.with_name(path.name + ending)
        found.write_bytes(content)
        return str(found)

    def folder(content):
        return Folder(path=laid(content, ".zip"), validation=2).load(seed=0).train.x.shape[1:]

    def npz(content):
        return Npz(path=laid(content, ".npz"), validation=2).load(seed=0).train.x.shape[1:]

    def gunzipped(content):
        laid(content, ".bin.gz")
        return read(source, "set", str(path.parent))

    def batch(content):
        laid(content)
        return read_batch(path, ("data", "labels"))["data"].shape

    def tar(content):
        return batches(content, ("b/0", "b/1"), "labels")["x"].shape

    return {
        "zip": (zipped(pictures()), damaged, folder),
        "images": (zipped(pictures()), lambda _, *more: one_of(pictures(), *more), folder),
        "npz": (zipped(arrays()), damaged, npz),
        "npy": (zipped(arrays()), lambda _, *more: one_of(arrays(), *more), npz),
        "gzip": (gzip.compress(b"the content " * 9, mtime=0), damaged, gunzipped),
        "idx": (digits, damaged, lambda content: idx(content, "a file").shape),
        "python 2's tar": (two, damaged, tar),
        "pickle": (new, damaged, batch),
    }


@pytest.mark.parametrize("form", ["zip", "images", "npz", "npy", "gzip", "idx", "python 2's tar", "pickle"])
@pytest.mark.parametrize("cases", [QUICK, pytest.param(ALL, marks=pytest.mark.slow)], ids=["quick", "all"])
def test_contract_damaged_files_end_in_one_sentence(attempts, form, cases, tmp_path):
    content, damage, load = attempts[form]
    wanted, mark = load(content), tmp_path / "mark"
    evil = [pickle.dumps({"data": Evil(mark)}, protocol=protocol) for protocol in (0, 2, 4)]
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    refused = 0
    for case in cases:
        rng = random.Random(f"{form} {case}")
        try:
            found = load(damage(content, rng, rng.choice(evil)))
        except BadInput as error:
            refused += 1
            assert "\n" not in str(error) and 10 < len(str(error)) < 700, (case, str(error))
        else:
            assert len(found) == len(wanted), case  # what was damaged is not needed, or any value would be
        assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before, case
    assert load(content) == wanted
    assert refused > len(cases) / 3
