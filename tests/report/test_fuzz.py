"""Damaged and hostile run directories: what they are reported from is refused in one sentence or read; nothing runs."""

import io
import json
import os
import random
import shutil
from os import system

import numpy as np
import pytest

from robustscape.report.comparing import comparisons
from robustscape.report.tables import evaluations, summary, to_text
from robustscape.runs import read_runs
from robustscape.types import BadInput

JUNK = (None, True, -1, 0, 10**12, 1e300, "", "x", [], {}, [[1]], {"npz": 3}, {"npz": "../x"}, {"type": "os:system"})


class Evil:
    """What touches a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return system, (f"touch {self.mark}",)


def changed(plain, rng):
    """Put something else at a random place of plain data, or take something out."""
    if not isinstance(plain, dict | list) or not plain or rng.random() < 0.1:
        return rng.choice(JUNK)
    new = plain.copy()
    key = rng.choice(list(plain) if isinstance(plain, dict) else range(len(plain)))
    if rng.random() < 0.1:
        del new[key]
    else:
        new[key] = changed(plain[key], rng)
    return new


def cut(file, rng, _):
    content = file.read_bytes()
    file.write_bytes(content[: rng.randrange(len(content))])


def flipped(file, rng, _):
    content = bytearray(file.read_bytes())
    for _ in range(rng.choice([1, 3, 20])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def rewritten(file, rng, mark):
    """Change a value of a JSON file or of a line, or put objects that would run where arrays were."""
    if file.suffix == ".npz":
        content = io.BytesIO()
        np.savez(content, **{name: np.array([Evil(mark)], dtype=object) for name in ("x", "x_adv")})
        file.write_bytes(content.getvalue())
        return
    lines = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
    place = rng.randrange(len(lines))
    lines[place] = json.dumps(changed(json.loads(lines[place]), rng))
    file.write_text("\n".join(lines))


def linked(file, rng, _):
    file.unlink()
    if rng.random() < 0.2:
        os.mkfifo(file)
    else:
        file.symlink_to(rng.choice([file, file.parent, "/dev/zero", "/dev/null", file.parent / "no"]))


KINDS = (cut, flipped, rewritten, linked)


@pytest.mark.parametrize(
    "cases", [range(60), pytest.param(range(60, 300), marks=pytest.mark.slow)], ids=["quick", "all"]
)
def test_contract_reports_of_damaged_run_directories_end_in_one_sentence(fake, tmp_path, cases):
    whole, mark, refused = fake.run(tmp_path / "whole", name="at"), tmp_path / "mark", 0
    files = sorted(file.relative_to(whole) for file in whole.rglob("*") if file.is_file())
    for case in cases:
        rng, run = random.Random(f"run {case}"), tmp_path / "run"
        shutil.copytree(whole, run)
        KINDS[case % len(KINDS)](run / rng.choice(files), rng, mark)
        try:
            found = read_runs([run])
            assert "at" in to_text(summary(found)) and to_text(evaluations(found)) and comparisons(found) is None, case
        except BadInput as error:
            refused += 1
            assert "\n" not in str(error) and 10 < len(str(error)) < 900, (case, str(error))
        assert not mark.exists(), case
        shutil.rmtree(run)
    assert refused > len(cases) / 3
    assert len(read_runs([whole])[0].results) == 8
