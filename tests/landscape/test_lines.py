import pytest
import torch
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.judging import performance
from robustscape.evaluation.subject import subject
from robustscape.landscape.lines import Taking, judged, made, stepped
from robustscape.types import BadInput

ATTACK = PGD(threat=ThreatModel(eps=0.1), steps=4, result="best_loss")


def looked_at():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x = torch.rand(11, 1, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return subject(model, x, torch.arange(11) % 3, seed=5, batch=4)


def test_closed_form_what_a_full_attack_made_is_judged_as_performance_does():
    here = looked_at()
    x_adv = made(here, ATTACK, "slices")
    there, kept = judged(here, [x_adv])
    assert there == performance(here, ATTACK, "slices")
    assert torch.equal(kept, x_adv)


def test_closed_form_steps_only_raise_the_loss_and_stay_inside():
    here = looked_at()
    x_adv = made(here, PGD(threat=ThreatModel(eps=0.1), steps=1), "slices")
    further = stepped(here, ATTACK, x_adv, 3)
    assert float((further - here.x).abs().max()) <= 0.1 + 1e-12
    losses = [torch.nn.functional.cross_entropy(here.model(x), here.y, reduction="none") for x in (x_adv, further)]
    assert bool((losses[1] >= losses[0]).all()) and bool((losses[1] > losses[0]).any())
    both, kept = judged(here, [further, x_adv])
    assert torch.equal(kept, further) and both == judged(here, [further])[0]


@pytest.mark.parametrize(("wrong", "says"), [({"examples": "old"}, "retaken"), ({"steps": 0}, "did you mean")])
def test_contract_settings_that_cannot_be_meant_are_refused(wrong, says):
    with pytest.raises(BadInput, match=says):
        Taking(**({"attack": ATTACK, "examples": "neighbours", "steps": 3, "name": "slices"} | wrong))
