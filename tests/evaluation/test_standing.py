"""What is known in the middle of an evaluation: kept, gone on from, and added up by attack."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation import accuracy
from robustscape.evaluation.accuracy import Evaluating, evaluating
from robustscape.evaluation.standing import CLEAN, ROBUST
from robustscape.evaluation.subject import drained, subject
from robustscape.evaluation.suites import Entry
from robustscape.runtime import TRUTH

THREAT = ThreatModel(eps=0.06)
ATTACKS = (FGSM(threat=THREAT), PGD(threat=THREAT, steps=6, result="misclassified", restarts=2))


@pytest.fixture
def looked_at():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(96, 3))
    x = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    y[::9] = (y[::9] + 1) % 3
    return subject(model, x, y, runtime=TRUTH)


def _settings(**changes):
    return Evaluating(eps=0.06, attacks=ATTACKS, loss_steps=2, loss_restarts=1, batch_size=8, **changes)


@pytest.mark.slow
def test_closed_form_attacks_add_up(looked_at):
    found = drained(evaluating(_settings(), looked_at))
    assert [search.name for search in found.searches] == ["PGD, loss", "FGSM", "PGD"]
    clean = int((found.first == CLEAN).sum())
    assert found.clean_error.value == clean / 40
    flips = [search.flips for search in found.searches]
    assert flips == [int((found.first == place).sum()) for place in range(3)] and sum(flips) > 0
    assert int((found.first == ROBUST).sum()) == 40 - clean - sum(flips) == int((~found.fooled).sum())
    # Each searches what those before it left, and the last one's error is that of the whole.
    assert [search.tried for search in found.searches] == [40, 40 - clean - flips[0], 40 - clean - flips[0] - flips[1]]
    assert found.searches[-1].robust_error == found.robust_error
    assert found.searches[1].robust_error.value == (clean + flips[0] + flips[1]) / 40
    # FGSM goes through the network once and back once for each of the padded batches of eight.
    tried = -(-found.searches[1].tried // 8) * 8
    assert (found.searches[1].forwards, found.searches[1].backwards) == (tried, tried)
    steps = found.steps[found.first == 2]
    assert (steps >= 1).all() and (steps <= 14).all() and (found.steps[found.first != 2] == 0).all()


@pytest.mark.slow
def test_closed_form_an_entry_for_everyone_has_its_own_error(looked_at, monkeypatch):
    def entries(self):
        return (
            Entry(name="FGSM", parts={"FGSM": ATTACKS[0]}, everyone=True),
            Entry(name="both", parts={"FGSM": ATTACKS[0], "PGD": ATTACKS[1]}, everyone=True),
        )

    monkeypatch.setattr(Evaluating, "entries", entries)
    found = drained(evaluating(_settings(), looked_at))
    loss, alone, first, second = found.searches
    assert [s.name for s in found.searches] == ["PGD, loss", "FGSM", "both: FGSM", "both: PGD"]
    right = 40 - int((found.first == CLEAN).sum())
    assert alone.tried == first.tried == right and first.robust_error == alone.robust_error
    assert second.tried == 40 - round(first.robust_error.value * 40)
    assert second.robust_error.value >= max(alone.robust_error.value, loss.robust_error.value)


class _Killed(RuntimeError):
    pass


@pytest.mark.parametrize("after", [1, 4, 9, 12])
def test_end_to_end_a_killed_evaluation_goes_on_to_the_same_result(looked_at, tmp_path, monkeypatch, after):
    whole = drained(evaluating(_settings(), looked_at, adversarial=True))
    monkeypatch.setattr(accuracy, "_KEEP_EVERY", 0.0)
    partial = tmp_path / "partial"
    work = evaluating(_settings(), looked_at, partial=partial, adversarial=True)
    for _ in range(after):
        reached = next(work)
    work.close()
    assert partial.exists() == (after > 1)
    again = evaluating(_settings(), looked_at, partial=partial, adversarial=True)
    first = next(again)
    assert first.done <= reached.done
    found = drained(again)
    for name in ("fooled", "losses", "first", "steps", "x_adv"):
        assert np.array_equal(getattr(found, name), getattr(whole, name)), name
    assert [(s.name, s.tried, s.flips) for s in found.searches] == [(s.name, s.tried, s.flips) for s in whole.searches]


@pytest.mark.slow
def test_contract_another_model_begins_anew_and_a_damaged_file_too(looked_at, tmp_path):
    partial = tmp_path / "partial"
    drained(evaluating(_settings(), looked_at, partial=partial))
    assert next(evaluating(_settings(), looked_at, partial=partial)).done == 40 * (1 + 2 + 1 + 12)
    assert next(evaluating(_settings(), looked_at, partial=partial, adversarial=True)).done == 40
    with torch.no_grad():
        looked_at.model[0].bias += 1e-3
    assert next(evaluating(_settings(), looked_at, partial=partial)).done == 40
    partial.write_bytes(partial.read_bytes()[:100])
    assert next(evaluating(_settings(), looked_at, partial=partial)).done == 40


class _Scaled(nn.Module):
    """Logits times a number that is a buffer outside the state dict, or none of its tensors."""

    def __init__(self, model, scale, *, buffer):
        super().__init__()
        self.model = model
        if buffer:
            self.register_buffer("scale", torch.tensor(scale), persistent=False)
        else:
            self.scale = scale

    def forward(self, x):
        return self.model(x) * self.scale


@pytest.mark.parametrize("buffer", [True, False])
def test_contract_a_model_that_differs_in_what_no_state_dict_holds_begins_anew(looked_at, tmp_path, buffer):
    partial = tmp_path / "partial"
    settings = Evaluating(eps=0.1, steps=2, restarts=1, loss_steps=2, loss_restarts=1, n=None, sanity=0)

    def resumed(scale):
        model = _Scaled(looked_at.model, scale, buffer=buffer)
        made = subject(model, looked_at.x, looked_at.y, runtime=TRUTH)
        work = evaluating(settings, made, partial=partial)
        return next(work).done > len(looked_at.x), work

    drained(resumed(1.0)[1])
    assert resumed(1.0)[0]
    assert not resumed(2.0)[0]
