"""A step on soft labels and on mixed images against a naive rendering, in float64."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.data.targets import Targets
from robustscape.objectives.at import AT
from robustscape.runtime import TRUTH
from robustscape.streams import Streams
from robustscape.training.method import method
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.schedules.constant import Constant
from robustscape.training.settings import Training
from robustscape.training.step import step
from robustscape.weights.awp import AWP

spec = importlib.util.spec_from_file_location("naive", Path(__file__).with_name("naive.py"))
naive = importlib.util.module_from_spec(spec)
spec.loader.exec_module(naive)

EPS, STEP, STEPS, SEED = 0.1, 0.03, 3, 5


def _ours(batches, weights):
    net = naive.network()
    objective = AT(attack=PGD(threat=ThreatModel(eps=EPS), steps=STEPS, step_size=STEP))
    optimizer = SGD(lr=naive.LR, momentum=naive.MOMENTUM, weight_decay=naive.DECAY)
    settings = Training(epochs=1, optimizer=optimizer, lr=Constant())
    how, optimizer = method(net, objective, weights, settings, TRUTH), optimizer.build(net)
    for done, batch in enumerate(batches):
        step(how, optimizer, batch, done, 10, SEED)
    return net


def _theirs(examples, gamma):
    """Train on (x, index, loss that is attacked, loss that is descended), the losses of logits."""
    net, velocity = naive.network(), {}
    for done, (x, index, attacked, descended) in enumerate(examples):
        net.eval()
        noise = Streams(SEED, ("train", done, 0, "ball"), index).uniform(1, 6, 6, low=-1, high=1, dtype=torch.float64)

        def raised(z, attacked=attacked):
            return attacked(net(z))

        x_adv = naive.ascended((x + EPS * noise).clamp(0, 1), x, raised, eps=EPS, size=STEP, steps=STEPS)
        net.train()

        def loss(network, x_adv=x_adv, descended=descended):
            return descended(network(x_adv))

        v = naive.perturbation(net, loss, gamma) if gamma else {}
        naive.descended(net, loss, v, velocity)
    return net


def _assert_equal(ours, theirs):
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=0, atol=1e-10), name


@pytest.mark.parametrize("gamma", [0.0, 0.02])
def test_reference_mixup_attacks_and_descends_the_mixed_loss(gamma):
    examples, batches = [], []
    for batch in naive.batches(2):
        rng = Streams(1, ("targets", 0), batch.index)
        made = Targets(mixup=1.4)(batch, rng, classes=3)
        share, partner = Targets(mixup=1.4)._share(rng), np.argsort(rng.tag("partner").bits(1)[:, 0].numpy())
        x, ya, yb = share * batch.x + (1 - share) * batch.x[partner], batch.y, batch.y[partner]

        def mixed(logits, share=share, ya=ya, yb=yb):
            return share * F.cross_entropy(logits, ya) + (1 - share) * F.cross_entropy(logits, yb)

        batches.append(made)
        examples.append((x, batch.index, mixed, mixed))
    _assert_equal(_ours(batches, AWP(gamma=gamma) if gamma else None), _theirs(examples, gamma))


@pytest.mark.parametrize("over", ["K", "K-1"])
def test_reference_smoothed_and_noisy_labels_are_descended_and_the_true_ones_attacked(over):
    examples, batches = [], []
    for batch in naive.batches(2):
        rng = Streams(1, ("targets", 0), batch.index)
        noisy = torch.where(rng.tag("noise").uniform() < 0.6, rng.tag("label").integers(3), batch.y)
        assert not torch.equal(noisy, batch.y)

        def hard(logits, y=batch.y):
            return F.cross_entropy(logits, y)

        def soft(logits, y=noisy):
            error = -logits.log_softmax(dim=1)
            own = error.gather(1, y[:, None])[:, 0]
            spread = error.mean(1) if over == "K" else (error.sum(1) - own) / 2
            return (0.7 * own + 0.3 * spread).mean()

        batches.append(Targets(noise=0.6, smoothing=0.3, over=over)(batch, rng, classes=3))
        examples.append((batch.x, batch.index, hard, soft))
    _assert_equal(_ours(batches, None), _theirs(examples, 0.0))
