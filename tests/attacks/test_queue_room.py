"""What makes the queue fast changes nothing that it finds: several queries at once, closer batches, fewer backwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustscape.attacks.fab import FAB
from robustscape.attacks.queue import Rows, chosen, joined, queued
from robustscape.attacks.square import Square
from robustscape.attacks.threat import ThreatModel
from robustscape.streams import Streams


class _Net(nn.Module):
    """A small smooth network, in float64, that notes the sizes of its batches and of the gradients asked for."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(48, 12), nn.Tanh(), nn.Linear(12, 5)).double()
        self.sizes, self.backwards = [], 0

    def forward(self, x):
        logits = self.layers(x)
        self.sizes.append(len(x))
        if logits.requires_grad:
            logits.register_hook(self._back)
        return logits

    def _back(self, slope):
        self.backwards += len(slope)


def _rows(model, n, eps):
    x = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        logits = model.layers(x)
    return Rows(x=x, y=logits.argmax(dim=1), eps=torch.full((n,), eps, dtype=torch.float64), index=torch.arange(n),
                logits=logits, round=torch.zeros(n, dtype=torch.int64))  # fmt: skip


def _in_order(parts):
    whole = joined(list(parts))
    return whole.take(whole.rows.argsort())


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.03), ("l2", 0.3), ("l1", 0.8)])
@pytest.mark.parametrize("targeted", [False, True])
def test_contract_several_queries_at_once_are_the_same_one_after_the_other(norm, eps, targeted):
    model = _Net()
    rows = _rows(model, 9, eps)
    if targeted:
        rows = Rows(**{**vars(rows), "y": (rows.y + 1) % 5})
    attack = Square(threat=ThreatModel(norm=norm, eps=eps), queries=60, rescale=True, restarts=2, targeted=targeted)
    alone = _in_order(queued(attack, model, rows, Streams(3, ("s",)), width=9))
    count = len(model.sizes)
    for room, shrink in ((40, 0), (64, 4)):
        model.sizes.clear()
        found = _in_order(queued(attack, model, rows, Streams(3, ("s",)), width=9, room=room, shrink=shrink))
        for name in ("rows", "wrong", "steps", "dull"):
            assert torch.equal(getattr(found, name), getattr(alone, name)), name
        for name in ("x_adv", "score"):  # a sum may be taken in another order in a batch of another size
            assert torch.allclose(getattr(found, name), getattr(alone, name), rtol=1e-12, atol=1e-12), name
        assert len(model.sizes) < count and max(model.sizes) <= room
    assert targeted or {bool(wrong) for wrong in alone.wrong} == {True, False}


def test_contract_most_of_fab_goes_back_without_a_backward():
    model = _Net()
    rows = _rows(model, 12, 1e-4)  # no boundary is as near, so every search goes on to its end
    attack = FAB(threat=ThreatModel(eps=1e-4), steps=10, targets=2)
    together = _in_order(queued(attack, model, rows, Streams(), width=12))
    forwards, backwards = sum(model.sizes), model.backwards
    assert backwards < 0.75 * forwards
    for row in (0, 5, 11):
        (alone,) = queued(attack, model, rows.take(torch.tensor([row])), Streams(), width=12)
        assert torch.equal(alone.x_adv[0], together.x_adv[row]) and int(alone.steps[0]) == int(together.steps[row])


def test_closed_form_a_batch_may_follow_in_four_sizes_a_halving():
    model = _Net()
    rows = _rows(model, 8, 0.0)
    rows = Rows(**{**vars(rows), "eps": torch.tensor([0.0] * 3 + [1e-9] * 5, dtype=torch.float64)})
    list(queued(Square(queries=3), model, rows, Streams(), width=8, shrink=4))
    assert model.sizes == [8, 5, 5]  # radius 0 ends with the first query


@pytest.mark.parametrize("which", [[True, True, True], [False, False, False], [True, False, True]])
def test_closed_form_chosen_rows_are_exact(which):
    new, old = torch.rand(3, 2, 2) * 1e3, torch.rand(3, 2, 2) * 1e-3
    mask = torch.tensor(which)
    assert torch.equal(chosen(mask, new, old), torch.where(mask[:, None, None], new, old))
