"""What makes the queue fast changes nothing that it finds: several queries at once, closer batches, fewer backwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustscape.attacks.apgd import APGD
from robustscape.attacks.fab import FAB
from robustscape.attacks.losses import TargetedDLR
from robustscape.attacks.pgd import PGD
from robustscape.attacks.queue import queued
from robustscape.attacks.square import Square
from robustscape.attacks.threat import ThreatModel
from robustscape.attacks.walk import Rows, chosen, joined
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


ROUNDS = {
    "PGD": PGD(threat=ThreatModel(eps=0.03), steps=4, restarts=5, result="misclassified"),
    "APGD-T": APGD(threat=ThreatModel(eps=0.03), steps=6, loss=TargetedDLR(), restarts=2),
    "FAB-T": FAB(threat=ThreatModel(eps=0.03), steps=5, restarts=2),
    "Square": Square(threat=ThreatModel(eps=0.03), queries=40, rescale=True, restarts=4),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUNDS)
@pytest.mark.parametrize("doubted", [False, True])
def test_contract_rounds_side_by_side_count_as_if_they_came_in_turn(name, doubted):
    """Also where a success is not confirmed, and the search goes on: what is asked, and in which order, is the same."""
    model, attack = _Net(), ROUNDS[name]
    rows = _rows(model, 8, 0.03)

    def searched(width, room, shrink):
        asked, refused = {}, {}

        def confirm(x_adv, which):
            for one, row in zip(x_adv, which.tolist(), strict=True):
                asked.setdefault(row, []).append(one)
                refused[row] = refused.get(row, 0) + 1
            return torch.tensor([not doubted or refused[row] > 3 for row in which.tolist()])

        model.sizes.clear()
        parts = queued(attack, model, rows, Streams(3, ("s",)), width=width, room=room, shrink=shrink, confirm=confirm)
        return _in_order(parts), asked, len(model.sizes)

    alone, asked, steps = searched(1, 0, 0)  # a single place: one after the other
    assert {bool(wrong) for wrong in alone.wrong} == {True, False}
    for width, room, shrink in ((8, 0, 0), (3, 0, 0), (8, 40, 4)):
        found, also, fewer = searched(width, room, shrink)
        for one in ("rows", "wrong", "steps", "dull"):
            assert torch.equal(getattr(found, one), getattr(alone, one)), one
        torch.testing.assert_close(found.x_adv, alone.x_adv, rtol=0, atol=1e-9)
        torch.testing.assert_close(found.score, alone.score, rtol=0, atol=1e-9)
        assert asked.keys() == also.keys()
        for row, inputs in asked.items():
            torch.testing.assert_close(torch.stack(inputs), torch.stack(also[row]), rtol=0, atol=1e-9)
        assert fewer < steps / 2 and max(model.sizes) <= max(width, room)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_contract_queries_whose_answer_is_known_are_passed_over_and_change_nothing(channels):
    """Beside a loop that asks every one; five channels have too many signs for what was refused to be kept."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16 * channels, 12), nn.Tanh(), nn.Linear(12, 5)).double()
    x = torch.rand(6, channels, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        logits = model(x)
    y, sizes = logits.argmax(dim=1), []
    rows = Rows(x=x, y=y, eps=torch.full((6,), 0.05, dtype=torch.float64), index=torch.arange(6), logits=logits,
                round=torch.zeros_like(y))  # fmt: skip
    attack, rng = Square(threat=ThreatModel(eps=0.05), queries=300, rescale=True), Streams(3, ("s",))

    def margin(inputs):
        with torch.no_grad():
            z = model(inputs)
        return z.gather(1, y[:, None])[:, 0] - z.scatter(1, y[:, None], -torch.inf).amax(dim=1)

    state = attack.begin(rows, rng)
    best, low = state["here"], margin(state["here"])
    for number in range(1, 300):
        here = attack._proposed(state | {"x_adv": best}, rng, torch.full((6, 1), number))[0][:, 0]
        lower = (margin(here) < low) & (low > 0)
        best, low = torch.where(lower[:, None, None, None], here, best), torch.where(lower, margin(here), low)
    handle = model.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    for room in (6, 32):
        sizes.clear()
        found = _in_order(queued(attack, model, rows, rng, width=6, room=room))
        assert torch.equal(found.x_adv, best) and torch.equal(found.wrong, low <= 0)
        assert set(found.steps[~found.wrong].tolist()) == {300}
        assert len(sizes) < (200 if channels == 1 else 300) and max(sizes) <= room
    handle.remove()


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
