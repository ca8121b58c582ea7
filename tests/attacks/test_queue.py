"""The queue that examples under search go through."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from robustscape.attacks.queue import attacked, queued
from robustscape.attacks.threat import ThreatModel
from robustscape.attacks.walk import Rows, draws, radii
from robustscape.streams import Streams
from robustscape.types import BadInput, Diverged


@dataclass(frozen=True, kw_only=True)
class _Countdown:
    """Every example needs as many steps as its first pixel times 100 says, in round ``wins``."""

    wins: int = 1
    steps: int = 20
    threat: ThreatModel = field(default_factory=ThreatModel)

    def rounds(self, classes):
        return classes

    def begin(self, rows, rng):
        n = len(rows)
        no = torch.zeros(n, dtype=torch.bool)
        noise = draws(rng, rows).uniform(1)[:, 0]
        return {
            "x": rows.x, "y": rows.y, "eps": rows.eps, "index": rows.index, "round": rows.round, "noise": noise,
            "step": torch.zeros_like(rows.y), "x_adv": rows.x, "wrong": no, "score": torch.zeros(n), "over": no,
            "finite": ~no, "dull": no,
        }  # fmt: skip

    def step(self, model, state, rng):
        model(state["x"])
        step = state["step"] + 1
        needed = (state["x"].flatten(1)[:, 0] * 100).round().long()
        wrong = state["wrong"] | ((state["round"] == self.wins) & (step == needed))
        return state | {
            "step": step,
            "wrong": wrong,
            "x_adv": torch.where(wrong[:, None, None, None], state["noise"][:, None, None, None], state["x_adv"]),
            "score": state["round"].float(),
            "over": step >= self.steps,
        }


class _Sizes(torch.nn.Module):
    """Notes the sizes of the batches it is given."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        return torch.tensor([[1.0, 0.0, 0.0]]).repeat(len(x), 1)


def _rows(needed):
    x = torch.tensor(needed).float().view(-1, 1, 1, 1) / 100
    zero = torch.zeros(len(x), dtype=torch.int64)
    return Rows(x=x, y=zero, eps=torch.ones(len(x)), index=torch.arange(len(x)), logits=torch.rand(len(x), 3),
                round=zero)  # fmt: skip


def _all(settled, n):
    found = {name: [None] * n for name in ("wrong", "steps", "x_adv")}
    seen = []
    for part in settled:
        for k, row in enumerate(part.rows.tolist()):
            seen.append(row)
            found["wrong"][row] = bool(part.wrong[k])
            found["steps"][row] = int(part.steps[k])
            found["x_adv"][row] = float(part.x_adv[k].flatten()[0])
    assert sorted(seen) == list(range(n))
    return found


@pytest.mark.parametrize("width", [1, 3, 5, 16])
@pytest.mark.parametrize("shrink", [False, True])
def test_closed_form_every_example_is_settled_once_with_the_steps_it_needed(width, shrink):
    needed = [3, 18, 1, 99, 7, 20, 4, 50, 2]
    model = _Sizes()
    parts = queued(_Countdown(), model, _rows(needed), Streams(1, ("q",)), width=width, shrink=shrink)
    found = _all(parts, len(needed))
    # The first of three rounds takes 20 steps and fails; a success comes in the second or never.
    assert found["wrong"] == [k <= 20 for k in needed]
    assert found["steps"] == [20 + k if k <= 20 else 60 for k in needed]
    one = Streams(1, ("q",)).of(torch.arange(len(needed))).then(torch.ones(len(needed), dtype=torch.int64)).uniform(1)
    assert all(found["x_adv"][k] == float(one[k]) for k, steps in enumerate(needed) if steps <= 20)
    assert shrink or set(model.sizes) == {width}


def test_closed_form_the_batch_stays_full_while_examples_wait():
    model = _Sizes()
    rows = _rows([1] * 30)
    _all(queued(_Countdown(wins=0), model, rows, Streams(), width=10), 30)
    assert model.sizes == [10, 10, 10]


def test_closed_form_a_shrinking_batch_halves_when_half_of_it_is_idle():
    model = _Sizes()
    _all(queued(_Countdown(wins=0), model, _rows([1, 1, 1, 2, 2, 4, 4, 4]), Streams(), width=8, shrink=True), 8)
    assert model.sizes == [8, 8, 4, 4]


def test_closed_form_an_unconfirmed_success_goes_on():
    asked = []

    def confirm(x_adv, rows):
        asked.extend(rows.tolist())
        return torch.zeros(len(rows), dtype=torch.bool)

    found = _all(queued(_Countdown(wins=0), _Sizes(), _rows([5, 30]), Streams(), width=2, confirm=confirm), 2)
    assert asked == [0] and found["wrong"] == [False, False] and found["steps"] == [60, 60]


def test_contract_what_is_not_finite_is_an_error():
    class Broken(_Countdown):
        def step(self, model, state, rng):
            return super().step(model, state, rng) | {"finite": state["step"] < 2}

    with pytest.raises(Diverged, match="NaN under attack"):
        list(queued(Broken(), _Sizes(), _rows([9, 9]), Streams(), width=2))


def test_contract_labels_and_radii_that_do_not_fit_are_refused():
    model, x = _Sizes(), torch.rand(3, 1, 2, 2)
    with pytest.raises(BadInput, match="3 outputs"):
        attacked(_Countdown(), model, x, torch.tensor([0, 1, 3]), None, None, targeted=False)
    with pytest.raises(BadInput, match="one label for each input"):
        attacked(_Countdown(), model, x, torch.rand(3, 3), None, None, targeted=False)
    with pytest.raises(BadInput, match="one radius each"):
        radii(ThreatModel(), x, torch.rand(2))
    with pytest.raises(BadInput, match="at least 0"):
        radii(ThreatModel(), x, torch.tensor([0.1, -0.1, 0.0]))


def test_contract_misclassified_inputs_come_back_as_they_are():
    x, y = torch.full((4, 1, 1, 1), 0.05), torch.tensor([0, 1, 2, 0])
    x_adv = attacked(_Countdown(wins=0), _Sizes(), x, y, None, None, targeted=False)
    assert torch.equal(x_adv[1:3], x[1:3]) and not torch.equal(x_adv[0], x[0])
