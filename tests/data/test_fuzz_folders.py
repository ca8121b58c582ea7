"""Damaged and hostile folders of images: each is refused in one sentence or read, none runs or leaves its place."""

import io
import os
import pickle
import random
import shutil
import struct
import zipfile
import zlib
from os import system

import pytest

from robustscape.data.folder import Folder
from robustscape.types import BadInput

Image = pytest.importorskip("PIL.Image")

QUICK, ALL = range(40), range(40, 200)
SIZE = (9, 7)


class Evil:
    """What touches a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return system, (f"touch {self.mark}",)


def png(value=9, size=SIZE, mode="RGB"):
    content = io.BytesIO()
    Image.new(mode, size, value).save(content, "PNG")
    return content.getvalue()


def promising(width, height):
    """Return a small PNG that says it has so many pixels, and unpacks to a part of them."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(10**6))), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def lay(place):
    """Write a data set of sixteen images, and beside it what links lead to."""
    for split in ("train", "test"):
        for i in range(8):
            file = place / "set" / split / "ab"[i // 4] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png((30 * i, 5, 200)))
    (place / "beside").mkdir()
    (place / "beside" / "0.png").write_bytes(png())
    (place / "beside" / "secret.txt").write_text("the secret")


# -- kinds of damage -------------------------------------------------------------------------------------


def cut_or_flipped(file, rng, _):
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(bytes(content) if rng.random() < 0.5 else bytes(content[: rng.randrange(len(content))]))


def other_shape(file, rng, _):
    size, mode = rng.choice([(7, 9), (1, 1), SIZE, (300, 2)]), rng.choice(["RGB", "L", "1", "I;16", "RGBA", "P"])
    file.write_bytes(png(1 if mode in ("L", "1", "I;16", "P") else (1,) * len(mode), size, mode))


def bomb(file, rng, _):
    if rng.random() < 0.3:
        with file.open("r+b") as opened:  # ten gigabytes of nothing, which take no room on the disk
            opened.truncate(10**10)
    else:
        file.write_bytes(promising(*rng.choice([(60000, 60000), (4096, 4096), (2**31 - 1, 2**31 - 1), (0, 0)])))


def program(file, rng, mark):
    script = f"%!PS-Adobe-3.0 EPSF-3.0\n(%pipe%touch {mark}) (w) file\n".encode()
    file.write_bytes(rng.choice([pickle.dumps(Evil(mark)), script, f"<svg onload='touch {mark}'/>".encode(), b""]))


def link(file, rng, _):
    beside = file.parents[3] / "beside"
    target = rng.choice(
        [file, file.parent, beside, beside / "0.png", beside / "secret.txt", beside / "no", "/dev/zero", "/dev/null"]
    )
    file.unlink()
    file.symlink_to(target)


def no_file(file, rng, _):
    file.unlink()
    os.mkfifo(file) if rng.random() < 0.5 else file.mkdir()


def renamed(file, rng, _):
    names = [
        b"\xff\xfe.png",
        b"-rf.png",
        b"x" * 240 + b".png",
        b".png",
        b"a.png.txt",
        b"\x1b[31m.png",
    ]
    broken = os.path.join(os.fsencode(file.parent), rng.choice(names))  # noqa: PTH118 (bytes are no Path)
    os.rename(file, broken)  # noqa: PTH104
    if rng.random() < 0.7:
        with open(broken, "wb") as opened:
            opened.write(rng.choice([b"no image", png(3, (2, 2))]))


def folder(file, rng, _):
    """Take a class, or a split, out, or put a link in its place."""
    place = rng.choice([file.parent, file.parents[1]])
    shutil.rmtree(place)
    target = rng.choice([None, "file", place.parent, place, place.parents[1] / "beside", place.parents[2] / "beside"])
    if target == "file":
        place.write_bytes(png())
    elif target is not None:
        place.symlink_to(target)


def split_as_zip(file, rng, mark):
    """Put a zip in the place of a split: of names that lead out, a link, a bomb, or cut short."""
    split = file.parents[1]
    shutil.rmtree(split)
    kind, content = rng.choice(["out", "absolute", "link", "bomb", "cut", "pickle"]), io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(8):
            archive.writestr(f"{'ab'[i // 4]}/{i}.png", png(i, mode="L"))
        if kind in ("out", "absolute"):
            archive.writestr("../../beside/0.png" if kind == "out" else f"{mark}.png", png())
        if kind == "link":
            info = zipfile.ZipInfo("a/9.png")
            info.external_attr = 0o120777 << 16
            archive.writestr(info, "../../../beside/secret.txt")
        if kind == "bomb":
            for i in range(6):
                archive.writestr(f"b/{i}0.png", bytes(5 * 10**7))
        if kind == "pickle":
            archive.writestr("a/9.png", pickle.dumps(Evil(mark)))
    whole = content.getvalue()
    split.with_suffix(".zip").write_bytes(whole[: rng.randrange(len(whole))] if kind == "cut" else whole)


KINDS = (cut_or_flipped, other_shape, bomb, program, link, no_file, renamed, folder, split_as_zip)


@pytest.mark.parametrize("cases", [QUICK, pytest.param(ALL, marks=pytest.mark.slow)], ids=["quick", "all"])
def test_contract_damaged_folders_end_in_one_sentence(tmp_path, cases):
    refused = 0
    for case in cases:
        place, mark = tmp_path / str(case), tmp_path / "mark"
        lay(place)
        beside = {file: file.read_bytes() for file in (place / "beside").iterdir()}
        rng = random.Random(f"folder {case}")
        file = rng.choice(sorted((place / "set").rglob("*.png")))
        KINDS[case % len(KINDS)](file, rng, mark)
        before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
        try:
            found = Folder(path=str(place / "set"), validation=2).load(seed=0).train
        except BadInput as error:
            refused += 1
            assert "\n" not in str(error) and 10 < len(str(error)) < 900, (case, str(error))
            str(error).encode()
        else:
            assert found.x.shape[2:] in (SIZE[::-1], (2, 2)) and len(found.classes) == 2, case
        assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before, case
        assert {file: file.read_bytes() for file in (place / "beside").iterdir()} == beside, case
        shutil.rmtree(place)
    assert refused > len(cases) / 3
