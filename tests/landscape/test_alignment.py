from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from robustscape.landscape._groups import groups_of
from robustscape.landscape.alignment import aligned, match, permuted, shuffled
from robustscape.models.lenet import LeNet
from robustscape.models.preact_resnet import PreActResNet
from robustscape.models.stutz_resnet import StutzResNet
from robustscape.models.vgg import VGG
from robustscape.streams import Streams
from robustscape.types import BadInput


def mlp(*, hidden=6, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, hidden), nn.ReLU(), nn.Linear(hidden, 3)).eval()


def images(*shape):
    return torch.rand(8, *shape, generator=torch.Generator().manual_seed(1))


def built(architecture, image):
    """A network whose running statistics differ from channel to channel."""
    made = architecture.build(image=image, classes=4, seed=0)
    with torch.no_grad():
        made.train()(images(*image))
    return made.eval()


NETWORKS = {
    "mlp": (lambda: mlp(), (1, 4, 4)),
    "lenet": (lambda: built(LeNet(width=2), (1, 8, 8)), (1, 8, 8)),
    "vgg": (lambda: built(VGG(width=4), (3, 32, 32)), (3, 32, 32)),
    "preact_resnet": (lambda: built(PreActResNet(width=4), (3, 8, 8)), (3, 8, 8)),
    "stutz_resnet": (lambda: built(StutzResNet(width=4), (3, 8, 8)), (3, 8, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_closed_form_a_permuted_copy_is_the_same_function_and_is_matched_back(name):
    make, image = NETWORKS[name]
    model, x = make(), images(*image)
    other = shuffled(model, x, Streams(3, ("a test",)))
    own = {n: t for n, t in [*model.named_parameters(), *model.named_buffers()]}
    assert any(not torch.equal(other[n], t) for n, t in own.items())
    with torch.no_grad():
        logits, again = model(x), functional_call(model, other, (x,))
    torch.testing.assert_close(again, logits, rtol=1e-5, atol=1e-5 * float(logits.abs().max()))
    back = aligned(model, other, x)
    assert all(torch.equal(back[n], t) for n, t in own.items())


def test_closed_form_one_hidden_layer_is_matched_as_by_trying_all_orders():
    a, b = mlp(hidden=5, seed=1), mlp(hidden=5, seed=2)
    x = images(1, 4, 4)
    groups = groups_of(a, x)
    assert [group.size for group in groups] == [5]
    ours, theirs = ({n: p.detach() for n, p in m.named_parameters()} for m in (a, b))

    def product(order):
        moved = [theirs["1.weight"][order], theirs["1.bias"][order], theirs["3.weight"][:, order]]
        return sum(
            float((ours[n].double() * t).sum()) for n, t in zip(("1.weight", "1.bias", "3.weight"), moved, strict=True)
        )

    best = max(product(list(order)) for order in permutations(range(5)))
    (found,) = match(ours, theirs, groups)
    assert product(found) == pytest.approx(best, rel=1e-9)
    before = sum(float((p - q).square().sum()) for p, q in zip(ours.values(), theirs.values(), strict=True))
    moved = aligned(a, theirs, x)
    assert sum(float((ours[n] - moved[n]).square().sum()) for n in ours) < before


def test_closed_form_what_is_added_along_a_residual_stream_is_one_group():
    model = PreActResNet(width=4).build(image=(3, 8, 8), classes=4, seed=0).eval()
    stem, *others = groups_of(model, images(3, 8, 8))
    axes = {(use.name, use.axis) for use in stem.uses}
    for part in ("conv1.weight", "layer1.0.conv2.weight", "layer1.1.conv2.weight"):
        assert (part, 0) in axes
    for part in ("layer1.0.conv1.weight", "layer1.1.conv1.weight", "layer2.0.shortcut.0.weight"):
        assert (part, 1) in axes
    assert ("layer1.1.bn1.running_var", 0) in axes and ("layer1.0.bn2.weight", 0) not in axes
    assert len(others) == 11  # three later streams, and one inside each of eight blocks


def test_closed_form_a_flattened_channel_moves_as_a_block():
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 16, 2)).eval()
    (group,) = groups_of(model, images(1, 4, 4))
    assert {tuple(use) for use in group.uses} == {("0.weight", 0, 1), ("0.bias", 0, 1), ("3.weight", 1, 16)}
    state = {n: p.detach() for n, p in model.named_parameters()}
    moved = permuted(state, [group], [torch.tensor([2, 0, 1])])
    expected = state["3.weight"].view(2, 3, 16)[:, [2, 0, 1]].reshape(2, 48)
    assert torch.equal(moved["3.weight"], expected)


class Mixed(nn.Module):
    """Channels in front of a concatenation, or of a scale of their own, stay; the hidden features are free."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.scale = nn.Parameter(torch.ones(1, 4, 1, 1))
        self.head = nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3))

    def forward(self, x):
        h = torch.cat([self.conv(x), x[:, :, 1:-1, 1:-1]], dim=1) * self.scale
        return self.head(h.mean((2, 3)))


def test_contract_channels_whose_order_an_operation_minds_stay():
    (group,) = groups_of(Mixed().eval(), images(1, 4, 4))
    assert {use.name for use in group.uses} == {"head.0.weight", "head.0.bias", "head.2.weight"}


class Grouped(nn.Module):
    def forward(self, x):
        return F.group_norm(x, 2)


class Unseen(nn.Module):
    """Scales its features where torch does not see it."""

    def forward(self, x):
        return torch.from_numpy(x.numpy() * np.arange(1, x.shape[1] + 1, dtype=np.float32))


@pytest.mark.parametrize(("middle", "says"), [(Grouped, "that may change places"), (Unseen, "changes its outputs")])
def test_contract_a_network_without_known_free_neurons_is_refused(middle, says):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), middle(), nn.Linear(4, 3)).eval()
    state = {n: p.detach() for n, p in model.named_parameters()}
    with pytest.raises(BadInput, match=says):
        aligned(model, state, images(1, 4, 4))
    with pytest.raises(BadInput, match="that may change places"):
        groups_of(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), images(1, 4, 4))
