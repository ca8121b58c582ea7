import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.evaluation.subject import subject
from robustscape.landscape import runner
from robustscape.landscape.connectivity import Connectivity
from robustscape.landscape.flatness import AverageFlatness
from robustscape.landscape.runner import measure, measuring
from robustscape.landscape.slices import Slice
from robustscape.runtime import TRUTH
from robustscape.runtime.cluster import Cluster
from robustscape.runtime.memory import Parts
from robustscape.types import BadInput, Diverged, NotApplicable

SLICE = Slice(attack=PGD(steps=2, result="best_loss"), directions=2, positions=3)


def looked_at(seed=0):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.rand(7, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    return subject(model, x, y, seed=seed, runtime=replace(TRUTH, threads=1), batch=4, split="test", data_name="noise")


def same(a, b):
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("robust_loss", "clean_error", "direction_norm"))


def interrupted(partial, points):
    steps = measuring(SLICE, looked_at(), partial=partial)
    for _ in range(points + 1):
        next(steps)
    steps.close()


@pytest.mark.parametrize("cut", [False, True])
def test_end_to_end_resumed_is_uninterrupted(tmp_path, cut):
    partial = tmp_path / "partial.jsonl"
    interrupted(partial, 4)
    known = 4
    if cut:  # as a kill in the middle of a line leaves it
        partial.write_text(partial.read_text()[:-9])
        known = 3
    steps = measuring(SLICE, looked_at(), partial=partial)
    assert next(steps) == (known, 6)
    steps.close()
    result = measure(SLICE, looked_at(), partial=partial)
    assert same(result, measure(SLICE, looked_at()))
    assert next(measuring(SLICE, looked_at(), partial=partial)) == (6, 6)  # kept until the Result is saved
    assert result.provenance.data == "noise" and result.split == "test" and result.n == 7


@pytest.mark.parametrize(
    "other",
    [(replace(SLICE, width=0.5), looked_at()), (SLICE, looked_at(seed=1)), (SLICE, replace(looked_at(), batch=3))],
)
def test_contract_what_belongs_to_something_else_is_not_used(tmp_path, other):
    partial = tmp_path / "partial.jsonl"
    interrupted(partial, 4)
    assert next(measuring(*other, partial=partial)) == (0, 6)


@pytest.mark.parametrize("threads", [1, 2])
def test_contract_other_threads_or_tasks_begin_anew(tmp_path, threads):
    """Of several processes each has one thread, and takes half of the points in one pass where memory allows that."""
    made = looked_at()
    made = replace(made, runtime=replace(made.runtime, threads=threads), parts=Parts(1) if threads == 2 else None)
    assert SLICE.at_once(made) == (6 if threads == 1 else 1)
    steps = measuring(SLICE, made, partial=tmp_path / "partial.jsonl")
    assert [next(steps), next(steps)] == [(0, 6), (1, 6)]
    steps.close()
    assert next(measuring(SLICE, made, partial=tmp_path / "partial.jsonl", processes=2)) == (0, 6)


def test_contract_other_weights_begin_anew(tmp_path):
    partial = tmp_path / "partial.jsonl"
    interrupted(partial, 2)
    made = looked_at()
    with torch.no_grad():
        made.model[3].bias[0] += 1e-6
    assert next(measuring(SLICE, made, partial=partial)) == (0, 6)


def test_contract_every_point_is_on_disk_when_it_is_told(tmp_path):
    partial = tmp_path / "partial.jsonl"
    steps = measuring(SLICE, looked_at(), partial=partial)
    assert next(steps) == (0, 6) and not partial.exists()
    for done, total in steps:
        lines = partial.read_text().splitlines()
        assert len(lines) == done + 1 and total == 6
        if done == total:
            break
    assert {json.loads(line)["point"] for line in lines[1:]} == set(range(6))


def test_contract_what_is_refused_leaves_nothing_behind(tmp_path):
    partial = tmp_path / "results" / "partial.jsonl"
    linear = replace(looked_at(), model=nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    other = replace(SLICE, along="other", other=str(tmp_path.with_name("nowhere")))
    for refused, made, error in ((Connectivity(order=1), linear, NotApplicable), (other, looked_at(), BadInput)):
        with pytest.raises(error):
            measure(refused, made, partial=partial)
        assert list(tmp_path.iterdir()) == []
    partial.parent.mkdir()
    interrupted(partial, 4)
    with pytest.raises(BadInput):
        measure(other, looked_at(), partial=partial)
    assert next(measuring(SLICE, looked_at(), partial=partial)) == (4, 6)  # another's points stay


@pytest.mark.slow
def test_end_to_end_processes_give_what_turns_give(tmp_path):
    result = measure(SLICE, looked_at(), processes=2, partial=tmp_path / "partial.jsonl")
    assert same(result, measure(SLICE, looked_at()))
    assert result.provenance.threads == 1


@pytest.fixture
def pools(monkeypatch):
    """What processes were to measure, (tasks, subject, processes): here it is measured in turn."""
    made = []

    def here(measurement, subject, points, tasks, processes):
        made.append((list(tasks), subject, processes))
        return runner._turn(measurement, subject, points, tasks)

    monkeypatch.setattr(runner, "_pooled", here)
    return made


def test_end_to_end_the_last_task_has_one_thread_as_the_others_had(tmp_path, pools):
    partial, made = tmp_path / "partial.jsonl", replace(looked_at(), runtime=TRUTH)
    measure(SLICE, made, partial=partial, processes=2)
    partial.write_text("".join(partial.read_text().splitlines(keepends=True)[:-2]))
    measure(SLICE, made, partial=partial, processes=2)
    measure(SLICE, made, partial=partial, processes=2)
    assert [tasks for tasks, _, _ in pools] == [[range(3), range(3, 6)], [range(3, 6)], []]
    assert all(looked.runtime.threads == 1 for _, looked, _ in pools)


def test_contract_processes_share_the_memory(pools, monkeypatch):
    monkeypatch.setattr(runner, "search_bytes", lambda *_: 10.0)
    monkeypatch.setattr(runner, "available", lambda runtime, sharing: 60.0 / sharing)
    measure(SLICE, looked_at(), processes=1)
    assert not pools
    measure(SLICE, looked_at(), processes=2)
    measure(SLICE, replace(looked_at(), parts=Parts(1)), processes=2)
    assert [looked.parts.size for _, looked, _ in pools] == [2, 1]


@pytest.mark.slow
def test_contract_an_error_in_a_process_is_the_measurements():
    made = looked_at()
    with torch.no_grad():
        made.model[3].weight[0, 0] = torch.inf
    with pytest.raises(Diverged, match="not finite"):
        measure(AverageFlatness(attack=PGD(steps=1)), made, processes=2)


def test_contract_what_cannot_be_sent_is_refused():
    class Local(nn.Linear):
        def forward(self, x):
            return super().forward(x.flatten(1))

    made = subject(Local(16, 3), torch.rand(2, 1, 4, 4), torch.tensor([0, 1]))
    with pytest.raises(BadInput, match="processes=1"):
        measure(SLICE, made, processes=2)
    with pytest.raises(BadInput, match="at least 1"):
        measure(SLICE, made, processes=0)


def test_contract_points_are_not_shared_out_twice():
    with pytest.raises(BadInput, match="leave out the processes=2, or the cluster"):
        measure(SLICE, looked_at(), processes=2, cluster=Cluster(cpus=2, most=2))


def test_contract_a_network_without_neurons_is_told_from_bad_input():
    made = looked_at()
    made = replace(made, model=nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    with pytest.raises(NotApplicable, match="no neurons of Sequential were found"):
        measure(Connectivity(order=1), made)


# -- on a cluster --------------------------------------------------------------------------------------


def mortal(mark):
    """A subject whose model ends the first worker that it runs in, once."""
    home = os.getpid()

    class Mortal(nn.Sequential):
        def forward(self, x):
            if os.getpid() != home and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().forward(x)

    made = looked_at()
    return replace(made, model=Mortal(*made.model))


@pytest.mark.slow
def test_end_to_end_a_cluster_gives_what_turns_give_a_lost_worker_included(cluster, tmp_path):
    partial, mark = tmp_path / "partial.jsonl", tmp_path / "mark"
    steps = measuring(SLICE, mortal(mark), partial=partial, cluster=cluster)
    for _ in range(4):
        next(steps)
    steps.close()
    assert mark.exists() and len(partial.read_text().splitlines()) == 4
    assert next(measuring(SLICE, mortal(mark), partial=partial, cluster=cluster)) == (3, 6)
    result = measure(SLICE, mortal(mark), partial=partial, cluster=cluster)
    alone = measure(SLICE, looked_at())
    assert result.robust_loss == pytest.approx(alone.robust_loss, rel=1e-6)  # alone all points are taken in one pass
    assert result.robust_error.tolist() == alone.robust_error.tolist()
    assert result.provenance.threads == 1


@pytest.mark.slow
def test_contract_a_node_of_other_versions_is_refused(cluster, monkeypatch):
    monkeypatch.setattr(runner, "versions", lambda: {"torch": "1.0"})
    with pytest.raises(BadInput, match=r"a node of the cluster has torch \S+ and not 1.0"):
        measure(SLICE, looked_at(), cluster=cluster)
