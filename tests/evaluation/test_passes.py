"""Models that are random on purpose."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from robustscape.attacks.apgd import APGD
from robustscape.attacks.autoattack import AutoAttack
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.accuracy import Evaluating, evaluate, evaluating
from robustscape.evaluation.passes import MeanLogits, on_own_draws
from robustscape.evaluation.subject import drained, subject
from robustscape.runtime import TRUTH
from robustscape.types import BadInput


class Noisy(nn.Module):
    """A linear model whose logits have normal noise."""

    def __init__(self, scale):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.linear = nn.Linear(16, 3)
        self.scale = scale

    def forward(self, x):
        z = self.linear(x.flatten(1))
        return z + self.scale * torch.randn_like(z)


def _images(n=24):
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def test_closed_form_the_mean_of_the_passes_and_one_answer():
    model, x, state = Noisy(0.5), _images(), torch.get_rng_state()
    mean = MeanLogits(model, 4, seed=7)
    first = mean(x)
    assert torch.equal(first, mean(x)) and torch.equal(torch.get_rng_state(), state)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        expected = torch.stack([model(x) for _ in range(4)]).mean(dim=0)
    torch.testing.assert_close(first, expected)
    with pytest.raises(BadInput, match="passes must be at least 1, not 0"):
        MeanLogits(model, 0, seed=0)


@pytest.mark.slow
def test_end_to_end_a_random_model_is_judged_by_its_mean():
    """One pass misclassifies by luck what the mean of many gets right: that is no robustness lost."""
    model, x = Noisy(0.3), _images()
    with torch.no_grad():
        model.linear.bias -= model.linear(x.flatten(1)).mean(dim=0)
        y = model.linear(x.flatten(1)).argmax(dim=1)
    threat = ThreatModel(eps=0.01)
    attack = AutoAttack(threat=threat, version="rand", steps=5)

    def errors(passes):
        settings = Evaluating(eps=0.01, attacks=(attack,), loss_restarts=0, sanity=0, passes=passes)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return drained(evaluating(settings, subject(model, x, y, runtime=TRUTH)))

    one, many = errors(1), errors(400)
    assert many.clean_error.value < one.clean_error.value
    assert many.clean_error.value <= many.robust_error.value
    with torch.random.fork_rng(), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        evaluate(model, x, y, eps=0.01, suite="autoattack-rand", loss_restarts=0, runtime=TRUTH)
    assert any("randomness: two passes differ" in str(one.message) for one in told)


def test_contract_as_many_passes_judge_as_a_gradient_is_the_mean_of():
    rand = AutoAttack(version="rand")
    given = [Evaluating(suite="autoattack-rand"), Evaluating(attacks=(rand,)), Evaluating(attacks=(APGD(eot=3),))]
    assert [settings.judging_passes() for settings in given] == [20, 20, 3]
    assert Evaluating().judging_passes() == 1 and Evaluating(attacks=(rand,), passes=7).judging_passes() == 7


def test_contract_one_attack_in_the_place_of_a_list_is_refused():
    with pytest.raises(BadInput, match="one attack, APGD; did you mean a list of it"):
        evaluate(Noisy(0.0), _images(), torch.zeros(24).long(), attacks=APGD())  # pyright: ignore[reportArgumentType]


def test_contract_what_was_judged_by_other_passes_is_not_gone_on_with(tmp_path):
    model, x = Noisy(0.3), _images(6)
    looked_at = subject(model, x, torch.arange(6) % 3, runtime=TRUTH)

    def begun(passes):
        settings = Evaluating(attacks=(APGD(steps=2),), loss_restarts=0, sanity=0, passes=passes)
        work = evaluating(settings, looked_at, partial=tmp_path / "kept")
        first = next(work)
        drained(work)
        return first.done < first.total

    with torch.random.fork_rng():
        assert [begun(2), begun(2), begun(3)] == [True, False, True]


class _Watched(Noisy):
    """Counts the examples of forwards that keep the way back."""

    slopes = 0

    def forward(self, x):
        z = super().forward(x)
        self.slopes += len(x) * z.requires_grad * torch.is_grad_enabled() * x.requires_grad
        return z


def test_contract_a_random_model_draws_anew_where_it_is_searched_again():
    model, x = _Watched(0.3), _images()
    with torch.no_grad():
        y = model.linear(x.flatten(1)).argmax(dim=1)
    attack = APGD(threat=ThreatModel(eps=0.01), steps=3)
    settings = Evaluating(eps=0.01, attacks=(attack,), loss_restarts=0, sanity=0, passes=50)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        (search,) = drained(evaluating(settings, subject(model, x, y, runtime=TRUTH))).searches
    assert search.again > 0 and 0 < model.slopes < search.backwards  # the first search is on a copy


def test_contract_a_random_model_has_one_evaluation_and_leaves_others_draws_alone():
    model, x = Noisy(0.5), _images()
    y = model.linear(x.flatten(1)).argmax(dim=1)
    settings = {"eps": 0.02, "steps": 3, "restarts": 1, "loss_steps": 2, "loss_restarts": 1, "sanity": 0}
    before, found = torch.get_rng_state(), []
    for seed in (0, 0, 1):
        found.append(evaluate(model, x, y, **settings, seed=seed, runtime=TRUTH))
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(5)
        before = torch.get_rng_state()
    assert found[0].losses.tolist() == found[1].losses.tolist() != found[2].losses.tolist()


def test_contract_what_is_drawn_between_the_steps_is_nobody_elses():
    def work():
        yield float(torch.rand(()))
        yield float(torch.rand(()))
        return float(torch.rand(()))

    def all_of(between):
        made, seen = on_own_draws(work(), 3, torch.device("cpu")), []
        while True:
            try:
                seen.append(next(made))
            except StopIteration as end:
                return [*seen, end.value]
            torch.rand(between)

    with torch.random.fork_rng():
        torch.manual_seed(3)
        own = [float(torch.rand(())) for _ in range(3)]
    assert all_of(0) == all_of(7) == own

    closed = []

    def closing():
        try:
            yield 1
        finally:
            closed.append(True)

    made = on_own_draws(closing(), 0, torch.device("cpu"))
    next(made)
    made.close()
    assert closed == [True]
