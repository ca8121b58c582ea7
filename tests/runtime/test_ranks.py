"""Several ranks: who has what, and what they say to each other. This file is also what they run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from robustscape.runtime import Runtime, ranks
from robustscape.runtime.launching import launch

# -- what the ranks run --------------------------------------------------------------------------------


def _talk(out: Path) -> None:
    me = ranks.rank()
    weight = (3, 1)[me]
    mean = ranks.mean_over_ranks([torch.full((2, 2), me * 4.0), torch.tensor(float(me), dtype=torch.float64)], weight)
    found = {
        "world": ranks.world(),
        "first": ranks.is_first(),
        "mean": mean,
        "sum": ranks.sum_over_ranks(torch.tensor([me + 1, 10])),
        "gathered": ranks.gathered({"rank": me}),
        "from_first": ranks.from_first(f"rank {me}"),
        "awkward": ranks.mean_over_ranks([torch.tensor([0.1, 1 / 3]) * (me + 1)], (43, 42)[me])[0],
        "threads": torch.get_num_threads(),
    }
    torch.save(found, out / f"{me}.pt")


if __name__ == "__main__":
    launch(_talk, Path(sys.argv[1]), runtime=Runtime(device="cpu", devices=2))


# -- tests ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 7, 12])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_closed_form_shares_and_turns_give_everything_once(monkeypatch, count, world):
    monkeypatch.setattr(ranks, "world", lambda: world)
    shares, turns = [], []
    for number in range(world):
        monkeypatch.setattr(ranks, "rank", lambda number=number: number)
        shares.append(list(range(count))[ranks.share(count)])
        turns.append(list(ranks.turns(range(count))))
    assert [row for part in shares for row in part] == list(range(count))
    assert sorted(item for part in turns for item in part) == list(range(count))
    for parts in (shares, turns):
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1


def test_contract_alone_nothing_is_copied():
    tensor = torch.tensor([0.1, 0.2])
    assert ranks.world() == 1 and ranks.is_first()
    assert ranks.mean_over_ranks([tensor], 3)[0] is tensor and ranks.sum_over_ranks(tensor) is tensor
    assert ranks.gathered("a") == ["a"] and ranks.from_first("a") == "a"
    ran = []
    launch(ran.append, 5, runtime=Runtime(device="cpu"))
    assert ran == [5]


@pytest.mark.slow
@pytest.mark.parametrize("started_by", ["launch", "torchrun"])
def test_closed_form_what_two_ranks_hear(tmp_path, started_by):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    how = torchrun if started_by == "torchrun" else ("-W", "error")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *how, __file__, str(tmp_path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert ended.returncode == 0, ended.stderr
    first, second = (torch.load(tmp_path / f"{number}.pt") for number in range(2))
    assert first["first"] and not second["first"]
    for found in (first, second):
        assert found["world"] == 2 and found["threads"] == 1
        assert found["mean"][0].dtype == torch.float32 and torch.equal(found["mean"][0], torch.ones(2, 2))
        assert found["mean"][1].dtype == torch.float64 and found["mean"][1].shape == () and found["mean"][1] == 0.25
        assert found["sum"].tolist() == [3, 20]
        assert found["gathered"] == [{"rank": 0}, {"rank": 1}] and found["from_first"] == "rank 0"
    assert torch.equal(first["awkward"], second["awkward"])
    expected = torch.tensor([0.1, 1 / 3]) * (43 + 2 * 42) / 85
    assert torch.allclose(first["awkward"], expected, rtol=1e-6)
