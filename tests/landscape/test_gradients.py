import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.subject import subject
from robustscape.landscape._noise_scale import _ratio, noise_estimates
from robustscape.landscape.gradients import Gradients
from robustscape.landscape.runner import measure
from robustscape.runtime import TRUTH
from robustscape.streams import Streams
from robustscape.types import BadInput, Diverged

ATTACK = PGD(threat=ThreatModel(eps=0.05), steps=4, start="none", result="best_loss")


class Sloped(nn.Module):
    """Logits whose cross-entropy for class 0 is 1 + w . x: an example's gradient is the example."""

    def __init__(self, size):
        super().__init__()
        self.w = nn.Parameter(torch.linspace(0.05, 0.1, size, dtype=torch.float64))

    def forward(self, x):
        loss = 1 + x.flatten(1) @ self.w
        return torch.stack([torch.zeros_like(loss), loss + torch.log(-torch.expm1(-loss))], dim=1)


def uniform_images(n, seed=0):
    return Streams(seed, ("images",)).uniform(n, 1, 3, 4, dtype=torch.float64)


def test_closed_form_norms_of_a_loss_that_is_linear_in_the_weights():
    x = 0.1 + 0.8 * uniform_images(37)
    made = subject(Sloped(12), x, torch.zeros(37, dtype=torch.int64), batch=5)
    found = measure(Gradients(attack=ATTACK, minibatch=4), made)
    mean, w = x.flatten(1).mean(0), made.model.w.detach()
    # every weight is positive: the attack moves every pixel up by eps
    assert found.losses == ("clean", "robust") and found.layers == ("w",)
    assert found.loss == pytest.approx([1 + float(w @ mean), 1 + float(w @ (mean + 0.05))], rel=1e-12)
    assert found.norm == pytest.approx([float(mean.norm()), float((mean + 0.05).norm())], rel=1e-12)
    assert found.layer_norm[:, 0] == pytest.approx(found.norm, rel=1e-12)
    assert found.relative_norm[:, 0] == pytest.approx(found.norm / float(w.norm()), rel=1e-12)
    assert found.slope[:, 0] == pytest.approx(found.norm * float(w.norm()), rel=1e-12)
    drawn = x.flatten(1)[Streams(made.seed, ("gradients", "order")).order(37)].split(4)
    norms = np.array([float(part.mean(0).norm()) for part in drawn[:9]])  # the tenth is ragged
    assert (found.minibatch, found.minibatches) == (4, 9)
    assert found.stochastic_norm[0] == pytest.approx(norms.mean(), rel=1e-12)
    assert found.stochastic_deviation[0] == pytest.approx(norms.std(ddof=1), rel=1e-10)


def test_closed_form_noise_of_a_known_distribution_is_within_four_standard_errors():
    """Of pixels uniform in [0, 1]: |G|^2 = d / 4, tr(Sigma) = d / 12, so that the noise scale is 1 / 3."""
    x = uniform_images(2000, seed=3)
    made = subject(Sloped(12), x, torch.zeros(2000, dtype=torch.int64))
    found = measure(Gradients(attack=ATTACK, minibatch=10), made)
    for estimate, truth in ((found.clean_signal, 3.0), (found.clean_noise, 1.0), (found.clean_noise_scale, 1 / 3)):
        error = (estimate.high - estimate.low) / 2 / 2.26  # Student's t with 9 degrees of freedom
        assert abs(estimate.value - truth) < 4 * error < 0.2 * truth
    # the attack moves pixels up by at most 0.05, and not beyond 1: a little more signal, a little less noise
    assert found.robust_signal.value > found.clean_signal.value and found.robust_noise.value < found.clean_noise.value


def test_closed_form_signal_and_noise_are_unbiased_and_their_intervals_cover():
    rng = np.random.default_rng(0)
    truth, d, runs = np.full(6, 0.2), 6, 400
    sizes = np.array([4] * 11 + [2])
    signals, noises, covered = [], [], 0
    for _ in range(runs):
        batches = [rng.normal(truth, 1.0, (size, d)).sum(0) for size in sizes]
        groups = np.array([np.sum(batches[k::10], axis=0) for k in range(10)])
        signal, noise, scale = noise_estimates(groups @ groups.T, sizes, np.array([(b**2).sum() for b in batches]))
        signals.append(signal.value)
        noises.append(noise.value)
        covered += noise.low <= d <= noise.high
        assert scale.low <= noise.value / signal.value <= scale.high or signal.value <= 0
    for found, expected in ((signals, d * 0.04), (noises, d)):
        assert abs(np.mean(found) - expected) < 4 * np.std(found) / np.sqrt(runs)
    assert 0.88 < covered / runs < 0.99  # 0.95 to within what 400 runs and a jackknife of ten groups can tell


def test_reference_signal_and_noise_of_pairs_of_minibatches():
    rng = np.random.default_rng(1)
    sizes, gradients = np.array([3, 3, 3, 1]), rng.normal(size=(10, 4)) + 1
    sums = [part.sum(0) for part in np.split(gradients, [3, 6, 9])]
    signal, noise, _ = noise_estimates(np.array(sums) @ np.array(sums).T, sizes, np.array([s @ s for s in sums]))
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    naive = sum(sums[i] @ sums[j] for i, j in pairs) / sum(sizes[i] * sizes[j] for i, j in pairs)
    mean = gradients.mean(0)
    spread = sum(size * ((s / size - mean) ** 2).sum() for size, s in zip(sizes, sums, strict=True)) / 3
    assert signal.value == pytest.approx(naive, rel=1e-12) and noise.value == pytest.approx(spread, rel=1e-12)
    assert (signal.low, signal.high) != (-np.inf, np.inf) and signal.n == 4


@pytest.mark.parametrize(
    ("bottom", "v_bottom", "low", "high"),
    [(2.0, 0.0, 0.5, 2.5), (2.0, 1e-12, 0.5, 2.5), (0.1, 1.0, 0.5, np.inf), (-1.0, 0.0, 0.0, np.inf)],
)
def test_closed_form_fiellers_interval(bottom, v_bottom, low, high):
    """With a known bottom it is (top -+ t) / bottom; with one that may be 0 it has no upper end."""
    found = _ratio(3.0, bottom, 1.0, v_bottom, 0.0, 2.0, 9)
    if v_bottom < 1:
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-5)
    else:
        # r with (3 - 0.1 r)^2 = 4 (1 + r^2)
        roots = np.roots([0.01 - 4, -0.6, 9 - 4])
        assert found.low == pytest.approx(roots.max()) and found.high == np.inf
    assert found.value == (3 / bottom if bottom > 0 else np.inf)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(1, 3, 2)
        self.bn = nn.BatchNorm2d(3)
        self.out = nn.Linear(18, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.bn(self.conv(x))).flatten(1))


def test_reference_gradients_are_those_of_torch_func():
    model = Net().double().train()
    x, y = uniform_images(11), torch.arange(11) % 3
    model(x)
    model.conv.bias.requires_grad_(False)  # frozen in training, and part of the landscape all the same
    found = measure(Gradients(attack=ATTACK, minibatch=3), subject(model, x, y, batch=4))
    assert not model.conv.bias.requires_grad and model.training
    model.eval()

    def loss(weights, image, label):
        return F.cross_entropy(torch.func.functional_call(model, weights, (image[None],)), label[None])

    weights = {name: p.detach() for name, p in model.named_parameters()}
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(weights, x, y)
    assert dict(zip(found.layers, found.layer_norm[0], strict=True)) == pytest.approx(
        {name: float(g.mean(0).norm()) for name, g in each.items()}, rel=1e-10
    )
    flat = torch.cat([g.flatten(1) for g in each.values()], dim=1).numpy()
    assert found.norm[0] == pytest.approx(np.linalg.norm(flat.mean(0)), rel=1e-10)
    # n // 8 = 1: every example is a mini-batch, so that the noise is the trace of the sample covariance
    assert found.clean_noise.value == pytest.approx(flat.var(axis=0, ddof=1).sum(), rel=1e-10)


def test_closed_form_slopes_stay_where_the_function_stays_and_norms_do_not():
    """Between layers without biases, factors c and 1 / c leave a ReLU network as it is."""
    found = []
    for c in (1.0, 4.0):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False))
        with torch.no_grad():
            model[1].weight *= c
            model[3].weight /= c
        x, y = uniform_images(9), torch.arange(9) % 3
        found.append(measure(Gradients(attack=ATTACK), subject(model.double(), x, y)))
    one, other = found
    assert other.slope == pytest.approx(one.slope, rel=1e-9)
    assert other.layer_norm == pytest.approx(one.layer_norm * np.array([1 / 4, 4]), rel=1e-9)


def test_contract_batches_do_not_matter():
    x, y = uniform_images(21), torch.arange(21) % 3
    one, other = (
        measure(Gradients(attack=ATTACK, minibatch=2), subject(Net().double(), x, y, batch=batch)) for batch in (21, 4)
    )
    assert one.norm == pytest.approx(other.norm, rel=1e-12)
    assert vars(one.robust_noise_scale) == pytest.approx(vars(other.robust_noise_scale), rel=1e-9)


def test_contract_two_examples_give_values_without_an_interval_and_one_is_refused():
    made = subject(Sloped(12), uniform_images(2), torch.zeros(2, dtype=torch.int64))
    found = measure(Gradients(attack=ATTACK), made)
    assert (found.clean_signal.low, found.clean_signal.high) == (-np.inf, np.inf)
    with pytest.raises(BadInput, match="at least 2 examples"):
        measure(Gradients(attack=ATTACK), subject(Sloped(12), uniform_images(1), torch.zeros(1, dtype=torch.int64)))
    with pytest.raises(BadInput, match="minibatch"):
        Gradients(minibatch=0)


def test_contract_losses_that_are_not_finite_are_told():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    made = subject(model, uniform_images(8).float(), torch.arange(8) % 3, runtime=TRUTH)
    with torch.no_grad():
        model[1].weight[0, 0] = torch.inf
    with pytest.raises(Diverged, match="not finite"):
        measure(Gradients(attack=ATTACK), made)
