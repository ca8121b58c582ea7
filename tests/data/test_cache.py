"""Decoded arrays are kept whole or not at all, and made again where they are damaged."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from robustscape.data import cache as decoded_cache
from robustscape.data.cache import decoded, digest, fingerprint, keep, kept, stamp


class Maker:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"x": np.arange(24, dtype=np.uint8).reshape(2, 3, 4), "names": np.array(["a", "bcd"])}


def test_contract_made_once_and_equal(cache):
    make = Maker()
    first, second = decoded("key", make), decoded("key", make)
    assert make.calls == 1 and sorted(p.name for p in (cache / "decoded").iterdir()) == [
        "key.json",
        "key.names.npy",
        "key.x.npy",
    ]
    for name, array in make().items():
        for found in (first[name], second[name]):
            assert found.dtype == array.dtype and np.array_equal(found, array) and found.flags.writeable


def test_contract_large_arrays_are_mapped_and_never_written_back(cache, monkeypatch):
    monkeypatch.setattr(decoded_cache, "_LARGE", 10)
    make = Maker()
    decoded("key", make)
    x = decoded("key", make)["x"]
    assert isinstance(x, np.memmap)
    x[:] = 7
    assert np.array_equal(decoded("key", make)["x"], make()["x"])


@pytest.mark.parametrize("file", ["key.x.npy", "key.names.npy", "key.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "empty"])
def test_contract_damage_is_noticed_and_made_good(cache, file, damage):
    make = Maker()
    decoded("key", make)
    path = cache / "decoded" / file
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        changed = {"cut": content[:-3], "flip": content[:-4] + bytes([content[-4] ^ 64]) + content[-3:], "empty": b""}
        path.write_bytes(changed[damage])
    assert kept("key") is None
    assert np.array_equal(decoded("key", make)["x"], make()["x"])
    assert path.read_bytes() == content


def test_contract_a_damaged_header_is_no_cache(cache):
    array = Maker()()["x"]
    keep("key", {"x": array})
    path = cache / "decoded" / "key.x.npy"
    whole = path.read_bytes()
    damaged = [whole[:i] + bytes([whole[i] ^ 1 << bit]) + whole[i + 1 :] for i in range(6, 128) for bit in (3, 6)]
    damaged.append(whole.replace(b"(2, 3, 4), }        ", b"(9999, 99999999), } "))  # more than any memory holds
    for content in damaged:
        path.write_bytes(content)
        found = kept("key")
        assert found is None or np.array_equal(found["x"], array)
    assert found is None and np.array_equal(decoded("key", Maker())["x"], array) and kept("key") is not None


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "3", '{"arrays": 3}', '{"arrays": [3]}', '{"arrays": {"x": 1}}'])
def test_contract_a_foreign_file_in_the_place_of_the_list_is_no_cache(cache, text):
    keep("key", Maker()())
    (cache / "decoded" / "key.json").write_text(text)
    assert kept("key") is None
    assert np.array_equal(decoded("key", Maker())["x"], Maker()()["x"]) and kept("key") is not None


def test_contract_names_in_a_foreign_file_lead_nowhere(cache):
    keep("key", Maker()())
    path = cache / "decoded" / "key.json"
    path.write_text(path.read_text().replace('"names"', '"../../names"'))
    assert kept("key") is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_contract_a_full_disk_is_a_warning(cache, monkeypatch):
    monkeypatch.setattr("os.getpid", lambda: 1234)
    (cache / "decoded").mkdir(parents=True)
    (cache / "decoded" / ".key.x.npy.1234.tmp").symlink_to("/dev/full")
    make = Maker()
    with pytest.warns(UserWarning, match="cannot be kept in .* and will be decoded again"):
        found = decoded("key", make)
    assert np.array_equal(found["x"], make()["x"]) and list((cache / "decoded").iterdir()) == []


def test_contract_what_a_kill_left_is_swept_away_after_a_day(cache):
    (cache / "decoded").mkdir(parents=True)
    old, new = (cache / "decoded" / f".key.x.npy.{pid}.tmp" for pid in (1, 2))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 2e5,) * 2)
    decoded("key", Maker())
    assert not old.exists() and new.exists()


def test_closed_form_every_part_of_a_large_array_counts(monkeypatch):
    monkeypatch.setattr(decoded_cache, "_PART", 8)
    x = np.arange(30, dtype=np.int16)
    changed = [np.where(np.arange(30) == place, -1, x).astype(np.int16) for place in range(30)]
    swapped = x.reshape(-1, 5).copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    assert len({digest({"x": some}) for some in (x, *changed, swapped.reshape(-1))}) == 32


def test_closed_form_digests_tell_names_types_shapes_and_values():
    x = np.zeros((2, 3), np.uint8)
    others = [{"y": x}, {"x": x.view(np.int8)}, {"x": x.reshape(3, 2)}, {"x": x + np.uint8(1)}, {"x": x, "y": x}]
    assert len({digest(arrays) for arrays in [{"x": x}, *others]}) == 6
    assert digest({"x": np.asfortranarray(x)}) == digest({"x": x})


def test_contract_a_stamp_changes_with_the_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    first = fingerprint(stamp(path))
    assert first == fingerprint(stamp(path))
    path.write_bytes(b"four")
    assert first != fingerprint(stamp(path))


@pytest.mark.slow
def test_end_to_end_two_processes_at_once(cache, tmp_path):
    """Each finds what it makes whole, whatever the other is doing."""
    program = textwrap.dedent("""
        import sys, pooch, numpy as np
        pooch.os_cache = lambda name: __import__("pathlib").Path(sys.argv[1])
        from robustscape.data.cache import decoded
        for key in range(10):
            x = decoded(f"key{key}", lambda: {"x": np.full((500, 100), key, np.uint8)})["x"]
            assert x.shape == (500, 100) and (x == key).all()
    """)
    both = [subprocess.Popen([sys.executable, "-c", program, str(cache)]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert len(list((cache / "decoded").iterdir())) == 20
