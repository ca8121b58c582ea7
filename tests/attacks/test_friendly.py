"""Early-stopped PGD against its algorithm, one example after another."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustscape.attacks.friendly import Friendly
from robustscape.attacks.losses import KL
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.streams import Streams
from robustscape.types import BadInput

N, EPS, SIZE, STEPS = 24, 0.15, 0.02, 7


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.Tanh(), nn.Linear(12, 3)).double().eval()
        for parameter in net.parameters():
            parameter.requires_grad_(False).mul_(2)
        return net


@pytest.fixture(scope="module")
def images(network):
    """Most are classified by their labels, some not, so that searches end at every step."""
    x = torch.rand(N, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = network(x).argmax(dim=1)
    y[::6] = (y[::6] + 1) % 3
    return x, y


def rng():
    return Streams(4, ("x",), torch.arange(50, 50 + N))


def _begun(x):
    noise = rng().tag(0, "ball").uniform(1, 6, 6, low=-1, high=1, dtype=torch.float64)
    return (x + EPS * noise).clamp(0, 1)


def _moved(net, here, x, y, omega, k, row):
    here = here.clone().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(net(here), y), here)
    noise = rng().tag("step", k).normal(1, 6, 6, dtype=torch.float64)[row : row + 1]
    here = here.detach() + SIZE * slope.sign() + omega * noise
    return torch.min(torch.max(here, x - EPS), x + EPS).clamp(0, 1)


def _algorithm_1(net, x, y, tau, omega):
    """Of one image: while K > 0, stop if misclassified and tau is 0."""
    for row, (image, label) in enumerate(zip(x, y, strict=True)):
        image, label, left = image[None], label[None], tau
        here = _begun(x)[row : row + 1]
        for k in range(STEPS):
            if net(here).argmax() != label:
                if left == 0:
                    break
                left -= 1
            here = _moved(net, here, image, label, omega, k, row)
        yield here


def _stutz(net, x, y, tau):
    """Of one image: the last of tau + 1 misclassified iterates, each of larger loss; the clean image without any."""
    for row, (image, label) in enumerate(zip(x, y, strict=True)):
        image, label, left, best = image[None], label[None], tau, -float("inf")
        here, kept = _begun(x)[row : row + 1], image
        for k in range(STEPS + 1):
            loss = float(F.cross_entropy(net(here), label))
            if net(here).argmax() != label and left >= 0 and loss > best:
                left, best, kept = left - 1, loss, here
            here = _moved(net, here, image, label, 0.0, k, row)
        yield kept


@pytest.mark.parametrize("omega", [0.0, 0.01])
@pytest.mark.parametrize("tau", [0, 1, 3])
def test_reference_every_image_ends_as_in_algorithm_1(network, images, tau, omega):
    x, y = images
    attack = Friendly(threat=ThreatModel(eps=EPS), steps=STEPS, step_size=SIZE, tau=tau, omega=omega)
    found = attack(network, x, y, rng=rng())
    torch.testing.assert_close(found, torch.cat(list(_algorithm_1(network, x, y, tau, omega))), rtol=0, atol=1e-12)
    wrong = network(found).argmax(dim=1) != y
    assert 0.2 < float(wrong.double().mean()) < 1


@pytest.mark.parametrize("tau", [0, 2])
def test_reference_stutz_keeps_misclassified_iterates_alone(network, images, tau):
    x, y = images
    search = replace(Friendly.stutz(), threat=ThreatModel(eps=EPS), steps=STEPS, step_size=SIZE, tau=tau)
    attack = replace(search, start="uniform")
    found = attack(network, x, y, rng=rng())
    torch.testing.assert_close(found, torch.cat(list(_stutz(network, x, y, tau))), rtol=0, atol=1e-12)
    clean = (found == x).flatten(1).all(dim=1)
    assert bool(clean.any()) and not bool((network(found).argmax(dim=1) != y)[clean].any())


@pytest.mark.parametrize("start", ["uniform", "gaussian", "direction", "step", "none"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_closed_form_a_large_tau_never_stops_it(network, images, norm, start):
    x, y = images
    threat = ThreatModel(norm=norm, eps=0.2)
    attack = Friendly(threat=threat, steps=STEPS, tau=STEPS, start=start)
    assert torch.equal(attack(network, x, y, rng=rng()),
                       PGD(threat=threat, steps=STEPS, start=start)(network, x, y, rng=rng()))  # fmt: skip


def test_contract_ended_images_leave_the_batch(network, images):
    """As many as are left are stepped on, and what they are alone they are together."""
    x, y = images
    sizes = []

    class Counted(nn.Module):
        def forward(self, batch):
            sizes.append(len(batch))
            return network(batch)

    attack = Friendly(threat=ThreatModel(eps=0.9), steps=10)
    found = attack(Counted(), x, y, rng=rng())
    assert sizes[0] == N and sizes[-1] < N and len(set(sizes)) < len(sizes)
    few = attack(network, x[7:9], y[7:9], rng=rng().of(torch.arange(57, 59)))
    torch.testing.assert_close(found[7:9], few, rtol=0, atol=1e-12)


def test_contract_the_divergence_may_be_raised(network, images):
    x, y = images
    attack = Friendly(threat=ThreatModel(eps=EPS), start="gaussian", loss=KL())
    assert bool((attack(network, x, y) != x).any())


def test_contract_words_and_settings_that_cannot_be_meant():
    assert Friendly(tau=2).describe() == "early-stopped PGD-10-2 (linf 8/255, step 2/255)"
    for changes, words in (({"steps": 0}, "at least 1 step"), ({"tau": -1}, "at least 0, not -1"),
                           ({"step_size": 2.0}, "did you mean 2/255"), ({"step_size": 0.0}, "above 0"),
                           ({"omega": 8.0}, "did you mean 8/255"),
                           ({"start": "normal"}, "not one of uniform, gaussian, direction, step, none"),
                           ({"result": "first"}, "not one of last, misclassified"),
                           ({"threat": ThreatModel(norm="l1", eps=1)}, "l1")):  # fmt: skip
        with pytest.raises(BadInput, match=words):
            Friendly(**changes)
