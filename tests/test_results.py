"""Results on disk: whole or not at all, whatever stops the writing."""

import errno
import os

import numpy as np
import pytest

from robustscape import results
from robustscape.landscape.histograms import WeightResult
from robustscape.results import load, save, written
from robustscape.types import Provenance

PROVENANCE = Provenance(
    created="",
    seconds=1.0,
    versions={},
    commit="",
    device="cpu",
    precision="float32",
    threads=1,
    seed=0,
    model="",
    data="",
    settings=None,
)


def result(value, bins=2000):
    counts, edges = np.full((1, bins), value), np.linspace(0, 1, bins + 1)[None]
    return WeightResult(layers=("a",), edges=edges, counts=counts, norm=np.array([value]), provenance=PROVENANCE)


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_contract_large_arrays_lie_beside_and_come_back(tmp_path):
    path = save(result(3), tmp_path / "a.json")
    assert len(list(tmp_path.iterdir())) == 2
    found = load(path)
    assert np.array_equal(found.counts, result(3).counts) and found.norm.tolist() == [3]
    save(result(4), path)
    assert load(path).counts[0, 0] == 4
    assert len(list(tmp_path.iterdir())) == 2  # the arrays of the first are gone
    save(result(5, bins=3), path)
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]


def test_contract_stopped_between_its_two_files_the_old_result_stays_whole(tmp_path, monkeypatch):
    path = save(result(3), tmp_path / "a.json")
    monkeypatch.setattr(results, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        save(result(4), path)
    found = load(path)
    assert found.norm.tolist() == [3] and found.counts[0, 0] == 3


def test_contract_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"), written(path, "w") as file:
        file.write("new")
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"
