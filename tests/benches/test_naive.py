"""The naive loops do what public scripts do."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.benches import naive
from robustscape.benches.problem import TINY, attack_of
from robustscape.evaluation.subject import subject
from robustscape.landscape._stutz import StutzPGD
from robustscape.landscape.flatness import AverageFlatness
from robustscape.landscape.runner import measure
from robustscape.runtime import TRUTH


def _images(n):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 1, 2, 2, generator=generator), torch.arange(n) % 2, generator


def test_closed_form_enough_steps_reach_the_corner_of_the_ball_on_a_linear_model():
    x, y, generator = _images(16)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    eps = 0.05
    attack = PGD(threat=ThreatModel(eps=eps), steps=9, step_size=eps / 4)  # 9 of them cross the ball
    delta = naive.perturbed(model, x, y, attack, generator)
    gap = (model[1].weight[1] - model[1].weight[0]).detach().sign().view(1, 1, 2, 2)
    away = torch.where((y == 0).view(-1, 1, 1, 1), gap, -gap)
    assert torch.allclose(x + delta, (x + eps * away).clamp(0, 1), atol=1e-6)  # rounding of float32


def test_contract_the_loop_leaves_the_gradients_of_the_weights_behind():
    batch, model = TINY.examples(), TINY.model()
    delta = naive.perturbed(model, batch.x, batch.y, attack_of(0.125, 2), TINY.generator())
    assert float(delta.abs().max()) <= 0.125  # exact in float32
    assert (batch.x + delta).min() >= 0 and (batch.x + delta).max() <= 1
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_contract_a_training_step_counts_every_pass_in_train_mode():
    x, y, generator = _images(6)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)).eval()
    before = model[3].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    robust_loss, clean_loss, correct = naive.train_step(model, optimizer, x, y, attack_of(0.1, 5), generator)
    assert model[1].num_batches_tracked == 5 + 1 + 1  # attack, outer, logging
    assert not torch.equal(model[3].weight, before)
    assert robust_loss > 0 and clean_loss > 0
    assert 0 <= correct <= 6


def test_closed_form_an_evaluation_counts_what_is_right():
    x, _, generator = _images(10)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    y = model(x).argmax(dim=1)
    assert naive.evaluated(model, x, y, attack_of(1e-6, 1), generator, batch=4) == (10, 10)
    assert naive.evaluated(model, x, 1 - y, attack_of(1e-6, 1), generator, batch=4) == (0, 0)


def test_closed_form_an_input_counts_as_robust_only_if_no_restart_fools_it():
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]]))
        model[1].bias.copy_(torch.tensor([-0.5, 0.0]))
    x = torch.full((200, 1, 2, 2), 0.5)  # at the boundary: a start alone decides, each way as often
    attack = PGD(threat=ThreatModel(eps=0.1), steps=1, step_size=1e-9)
    y = torch.zeros(200, dtype=torch.long)
    one = naive.evaluated(model, x, y, attack, generator, batch=200)[1]
    four = naive.evaluated(model, x, y, replace(attack, restarts=4), generator, batch=200)[1]
    assert 70 < one < 130 and 2 <= four < 30  # half, and a sixteenth


def _seen():
    """A network with BatchNorm, its examples and a generator."""
    x, y, generator = _images(12)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3, 2))
    return model.eval(), x, y, generator


def test_closed_form_a_direction_has_the_norm_of_every_filter():
    model, *_, generator = _seen()
    conv, _, scale, shift, linear, _ = naive.filter_normalised(model, generator)
    torch.testing.assert_close(conv.flatten(1).norm(dim=1), model[0].weight.detach().flatten(1).norm(dim=1))
    torch.testing.assert_close(linear.norm(dim=1), model[4].weight.detach().norm(dim=1))
    assert not scale.any() and not shift.any()


def test_closed_form_a_slice_is_the_loss_at_moved_weights_which_are_put_back():
    model, x, y, _ = _seen()
    before = [weight.detach().clone() for weight in model.parameters()]
    attack = attack_of(1e-7, 1)
    generator = torch.Generator().manual_seed(3)
    (curve,) = naive.sliced(model, x, y, attack, [-0.5, 0.0, 1.0], 1, generator, batch=5)
    assert all(map(torch.equal, model.parameters(), before))
    direction = naive.filter_normalised(model, torch.Generator().manual_seed(3))
    for alpha, (clean, robust) in zip([-0.5, 0.0, 1.0], curve, strict=True):
        moved = {
            name: w + alpha * d for (name, _), w, d in zip(model.named_parameters(), before, direction, strict=True)
        }
        there = F.cross_entropy(torch.func.functional_call(model, moved, (x,)), y).item()
        assert clean == pytest.approx(there, rel=1e-6) and robust == pytest.approx(there, rel=1e-5)


def test_closed_form_worst_iterates_are_those_of_largest_loss():
    model, x, y, generator = _seen()
    clean = F.cross_entropy(model(x), y, reduction="none").detach()
    loss, wrong = naive.worst_iterates(model, x, y, generator, eps=1e-7, steps=2, step_size=0.01)
    torch.testing.assert_close(loss, clean, rtol=1e-5, atol=0)
    torch.testing.assert_close(wrong, 1 - torch.exp(-clean), rtol=1e-5, atol=0)  # of two classes
    with_eps, _ = naive.worst_iterates(model, x, y, generator, eps=0.2, steps=5, step_size=0.1)
    assert bool((with_eps >= clean - 1e-6).all()) and float((with_eps - clean).mean()) > 1e-3


@pytest.mark.slow
def test_reference_flatness_is_that_of_the_measurement():
    model, x, y, generator = _seen()
    before = [weight.detach().clone() for weight in model.parameters()]
    options = {"eps": 0.05, "steps": 2, "step_size": 0.05, "restarts": 2, "batch": 5}
    theirs = naive.flatness(model, x, y, generator, xi=1.0, samples=200, **options)
    assert all(map(torch.equal, model.parameters(), before))
    attack = StutzPGD(threat=ThreatModel(eps=0.05), steps=2, step_size=0.05)
    settings = replace(
        AverageFlatness.stutz_code(), attack=attack, reference=replace(attack, restarts=2), xi=1.0, samples=200
    )
    ours = measure(settings, subject(model, x, y, runtime=TRUTH))
    error = (ours.robust.high - ours.robust.low) / 2  # about two standard errors of one of the two
    assert ours.robust.value > error and abs(ours.robust.value - theirs) < 2 * 2**0.5 * error
