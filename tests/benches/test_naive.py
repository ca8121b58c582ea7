"""The naive loops do what public scripts do."""

from dataclasses import replace

import torch
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.benches import naive
from robustscape.benches.problem import TINY, attack_of


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
