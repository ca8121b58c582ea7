"""Tasks on a Ray cluster of two CPUs. What they run travels as words."""

import operator
import sys
from types import SimpleNamespace

import pytest

from robustscape.runtime.cluster import Cluster, clustered, joined
from robustscape.runtime.ranks import RankLost
from robustscape.types import BadInput, Diverged

_RAISE = "(_ for _ in ()).throw(__import__('robustscape.types').types.Diverged('here'))"
_KILL = "__import__('signal').raise_signal(9)"


def evaluated(cluster, *tasks):
    return clustered(operator.call, eval, tasks, cluster=cluster)


def refusal(address):
    with pytest.raises(BadInput) as caught, joined(address):
        pass
    return str(caught.value)


def test_contract_without_ray_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'robustscape[cluster]'" in refusal("local")


@pytest.mark.parametrize(
    ("address", "said"),
    [("head", "HOST:PORT"), ("ray://head:1", "HOST:PORT"), ("", "HOST:PORT"), ("127.0.0.1:1", "no Ray cluster at")],
)
def test_contract_where_there_can_be_no_cluster_is_said_at_once(address, said, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    assert said in refusal(address)


@pytest.mark.slow
def test_end_to_end_items_come_a_task_at_a_time(cluster):
    assert cluster == Cluster(cpus=2, most=2)
    threads = "[__import__('torch').get_num_threads()]"
    found = list(evaluated(cluster, threads, "'abc'", "()"))
    assert (threads, 1) in found and len(found) == 4
    assert [item for task, item in found if task == "'abc'"] == ["a", "b", "c"]


@pytest.mark.slow
def test_end_to_end_what_the_work_raises_is_raised_here(cluster):
    with pytest.raises(Diverged, match="here") as caught:
        list(evaluated(cluster, _RAISE, "[__import__('signal').pause()]"))
    assert "on the cluster: Traceback" in caught.value.__notes__[0]
    assert list(evaluated(cluster, "[1]")) == [("[1]", 1)]  # the endless task does not hold its CPU


@pytest.mark.slow
def test_end_to_end_a_worker_that_is_lost_is_replaced(cluster, tmp_path):
    mark = f"__import__('pathlib').Path({str(tmp_path / 'mark')!r})"
    once = f"[1] if {mark}.exists() else ({mark}.touch(), {_KILL})"
    assert list(evaluated(cluster, once)) == [(once, 1)]


@pytest.mark.slow
def test_end_to_end_workers_that_are_always_lost_end_it_in_one_sentence(cluster, monkeypatch):
    monkeypatch.setattr("robustscape.runtime.cluster._AGAIN", 1)
    with pytest.raises(RankLost, match="lost 2 workers over the same task") as caught:
        list(evaluated(cluster, _KILL))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_contract_what_cannot_be_sent_is_refused(cluster):
    with pytest.raises(BadInput, match="leave cluster out"):
        next(clustered(operator.call, (item for item in "abc"), ("1",), cluster=cluster))
