"""Whole evaluations against those of others."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from robustscape.benches.evaluate import EvaluateBench, _ratios, _shares
from robustscape.benches.judged import judged
from robustscape.evaluation.subject import drained
from robustscape.types import BadInput

RUN = Path(__file__).resolve().parents[2] / "benchmarks" / "checkpoints" / "digits" / "at"


def test_closed_form_each_peer_is_compared_with_ours_in_its_own_contest():
    seconds = {"a, robustscape": (1.0, 2.0), "a, x": (3.0, 6.0), "b, robustscape": (4.0, 4.0), "b, x": (2.0, 2.0)}
    ratios = _ratios(seconds)
    assert {name: ratio.median for name, ratio in ratios.items()} == {"a, x": 3.0, "b, x": 0.5}


def test_closed_form_shares_are_counted_passes_times_what_one_takes():
    searches = [SimpleNamespace(forwards=20, backwards=10, again=1), SimpleNamespace(forwards=60, backwards=0, again=0)]
    found = SimpleNamespace(searches=searches, robust_error=SimpleNamespace(n=2))
    notes = _shares(found, 10.0, wide=0.05, narrow=0.1, both=0.3)  # pyright: ignore[reportArgumentType]
    values = {name.removeprefix("autoattack, "): note.median for name, note in notes.items()}
    assert values["forwards per survivor"] == 40 and values["backwards per survivor"] == 5
    assert values["searched again per survivor"] == 0.5
    assert values["share of forwards"] == pytest.approx((60 * 0.05 + 20 * 0.1) / 10)
    assert values["share of backwards"] == pytest.approx(10 * 0.2 / 10)
    assert values["share of the rest"] == pytest.approx(0.3)


def test_end_to_end_peers_that_are_missing_are_said_and_the_rest_is_timed(monkeypatch):
    for name in ("pyautoattack", "torchattacks", "foolbox"):
        monkeypatch.setitem(sys.modules, name, None)
    result = drained(EvaluateBench().quick().running())
    assert set(result.ratios) == {"pgd, naive loop"}
    assert set(result.missing) == {"autoattack, pyautoattack", "pgd, torchattacks", "pgd, foolbox"}
    assert {"autoattack, robustscape", "pgd, robustscape", "pgd, naive loop"} == set(result.rates)
    assert result.notes["autoattack, forwards per survivor"].median > 0


def test_end_to_end_one_contest_alone_on_a_trained_network(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    bench = replace(EvaluateBench().quick(), run=str(RUN), attacks=("autoattack",))
    result = drained(bench.running())
    assert set(result.rates) == {"autoattack, robustscape"} and str(RUN) in result.settings
    assert "linf 0.1" in result.settings


@pytest.mark.slow
def test_reference_theirs_and_ours_fool_the_same_images():
    pyautoattack = pytest.importorskip("pyautoattack")
    bench = replace(EvaluateBench().quick(), run=str(RUN), n=40, autoattack_steps=5, queries=50)
    given = judged(bench.problem, bench.run, n=40, eps=0.1)
    _, sides, _ = bench._autoattack(given)
    found = []
    real = pyautoattack.AutoAttack.run_standard_evaluation

    def kept(self, x, y, **settings):
        found.append(real(self, x, y, **settings)[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", kept)
        assert sides["pyautoattack"]() == 40
    theirs = float((given.model(found[0]).argmax(dim=1) != given.y).float().mean())
    ours = drained(_evaluation(bench, given)).robust_error.value
    assert abs(theirs - ours) <= 0.05 and 0.05 < ours < 0.95  # few steps: two images may differ


def _evaluation(bench, given):
    from robustscape.evaluation.accuracy import evaluating

    settings = replace(bench._plain(given), attacks=(bench._ensemble(given),))
    return evaluating(settings, given.subject(bench.problem.runtime, 4))


@pytest.mark.parametrize("change", [{"n": 0}, {"restarts": 0}, {"queries": 0}, {"attacks": ()}, {"attacks": ("fab",)}])
def test_contract_what_cannot_be_meant_is_refused(change):
    with pytest.raises(BadInput, match=r"must be at least 1|attacks are autoattack and pgd"):
        EvaluateBench(**change)
