"""What holds for every bench of the room."""

import json
from dataclasses import FrozenInstanceError, fields

import pytest

from robustscape.benches.attack import AttackBench
from robustscape.benches.problem import Problem, likeliest
from robustscape.benches.train import TrainBench
from robustscape.cli.bench import benches
from robustscape.config import from_plain, to_plain
from robustscape.types import BadInput

BENCHES = benches()


@pytest.mark.parametrize("name", BENCHES)
def test_contract_a_bench_is_a_component_called_as_its_file(name):
    bench = BENCHES[name]()
    assert bench.name == name
    assert all(field.kw_only for field in fields(bench))
    with pytest.raises(FrozenInstanceError):
        bench.rounds = None
    for one in (bench, bench.quick()):
        assert from_plain(json.loads(json.dumps(to_plain(one), allow_nan=False))) == one


@pytest.mark.parametrize("name", [name for name in BENCHES if name not in ("start", "compile")])
def test_end_to_end_a_quick_bench_runs(name):
    """Two that start other processes have tests of their own."""
    bench = BENCHES[name]().quick()
    seen, work = [], bench.running()
    with pytest.raises(StopIteration) as end:
        while True:
            seen.append(next(work))
    result = end.value.value
    assert seen[0][0] == 0
    assert seen[-1][0] == seen[-1][1]
    assert result.name == name
    assert result.pairs == bench.rounds.pairs
    assert result.ratios or result.costs
    assert set(result.ratios) < set(result.rates) or not result.ratios
    assert result.provenance.settings == to_plain(bench)


def test_contract_the_attack_bench_has_the_peers_that_need_nothing():
    contest = AttackBench().quick().contest()
    assert {"naive loop", "convolutions alone"} <= set(contest.peers)
    assert contest.settings == "LeNet(2), batch 4, PGD-2 (linf 8/255, step 2/255, 1 restart)"


@pytest.mark.parametrize(("kind", "field"), [(AttackBench, "steps"), (TrainBench, "batches"), (Problem, "width")])
def test_contract_sizes_below_1_are_refused(kind, field):
    with pytest.raises(BadInput, match=f"{field} must be at least 1"):
        kind(**{field: 0})


def test_contract_an_eps_of_pixels_is_refused():
    with pytest.raises(BadInput, match="8/255"):
        AttackBench(eps=8)


def test_contract_both_sides_have_the_same_network_and_examples():
    problem = Problem(network="lenet", width=2, batch=4)
    ours, theirs = problem.placed(), problem.model()
    assert all(a.equal(b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert problem.examples(2).x.equal(problem.examples().x[:2])
    logits = theirs(problem.examples().x)
    assert likeliest(theirs, problem.examples().x, 3).equal(logits.argmax(dim=1))
