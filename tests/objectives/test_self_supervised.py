"""Self-supervision by rotations against a naive rendering of each form, in float64."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustscape.attacks.apgd import APGD
from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.losses import KL, CrossEntropy, Margin
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.models.linear import Linear
from robustscape.modes import InTrainMode, evaluating
from robustscape.objectives.self_supervised import SelfSupervised
from robustscape.runtime import Runtime, fast
from robustscape.streams import Streams
from robustscape.training.batch_loss import rows_of
from robustscape.types import BadInput
from robustscape.weights.awp import AWP

EPS, SIZE, STEPS, WEIGHT, GAMMA = 0.1, 0.03, 3, 0.7, 0.02
ATTACK = PGD(threat=ThreatModel(eps=EPS), steps=STEPS, step_size=SIZE)


class Naive(nn.Module):
    """A trunk and two heads, each with its own output."""

    def __init__(self, network, head):
        super().__init__()
        self.trunk, self.classes, self.rotation = network[:-1], network[-1], head

    def forward(self, x):
        features = self.trunk(x)
        return self.classes(features), self.rotation(features)


def _both(net, x, y, r):
    """The cross-entropy of every image: of its class where r is None, or else of its angle."""
    classes, angles = net(x)
    return torch.stack([
        F.cross_entropy(c[None], label[None]) if turn is None else F.cross_entropy(a[None], torch.tensor([turn]))
        for c, a, label, turn in zip(classes, angles, y, r, strict=True)
    ])  # fmt: skip


def _images(batch, done, form):
    """The images of a form with the angle of each, None for those that are classified, and their indices."""
    if form == "five":
        x = [torch.rot90(image, k, (1, 2)) for image in batch.x for k in (0, 0, 1, 2, 3)]
        index = [int(i) + copy * 2**40 for i in batch.index for copy in range(5)]
        return torch.stack(x), batch.y.repeat_interleave(5), [None, 0, 1, 2, 3] * 8, torch.tensor(index)
    drawn = Streams(5, ("train", done, "rotation"), batch.index).integers(4).tolist()
    r = [turn if row % 2 else None for row, turn in enumerate(drawn)]
    x = torch.stack([torch.rot90(image, turn or 0, (1, 2)) for image, turn in zip(batch.x, r, strict=True)])
    return x, batch.y, r, batch.index


def _equation(net, x_adv, y, reduce):
    classes, _ = net(x_adv)
    turned = [F.cross_entropy(net(torch.rot90(x_adv, k, (2, 3)))[1], torch.full_like(y, k), reduction=reduce)
              for k in range(4)]  # fmt: skip
    return F.cross_entropy(classes, y, reduction=reduce) + WEIGHT / 4 * sum(turned)


def _made(naive, net, batch, done, form):
    """The adversarial inputs, and the outer loss as a function of the network."""
    net.eval()
    x, y, r, index = _images(batch, done, form) if form != "equation" else (batch.x, batch.y, None, batch.index)
    noise = Streams(5, ("train", done, 0, "ball"), index).uniform(1, 6, 6, low=-1, high=1, dtype=torch.float64)
    raised = (lambda z: _equation(net, z, y, "sum")) if r is None else (lambda z: _both(net, z, y, r).sum())
    x_adv = naive.ascended((x + EPS * noise).clamp(0, 1), x, raised, eps=EPS, size=SIZE, steps=STEPS)
    return partial(_loss, x_adv=x_adv, y=y, r=r)


def _loss(net, x_adv, y, r):
    net.train()
    if r is None:  # through the network at once, for common statistics
        classes, angles = net(torch.cat([torch.rot90(x_adv, k, (2, 3)) for k in range(4)]))
        labels = torch.arange(4).repeat_interleave(8)
        return F.cross_entropy(classes[:8], y) + WEIGHT * F.cross_entropy(angles, labels)
    each = _both(net, x_adv, y, r)
    rotated = torch.tensor([turn is not None for turn in r])
    return each[~rotated].mean() + WEIGHT * each[rotated].mean()


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("form", ["equation", "five", "half"])
@pytest.mark.parametrize("gamma", [0.0, GAMMA])
def test_reference_steps_in_float64(form, head, gamma, naive, stepped, rendered, same):
    objective = SelfSupervised(attack=ATTACK, form=form, weight=WEIGHT, head=head)
    rotation = copy.deepcopy(objective.prepare(naive.network())[-1].rotation)
    theirs, batches = Naive(naive.network(), rotation), naive.batches(2)
    ours, logs = stepped(objective, AWP(gamma=gamma) if gamma else None, batches)
    for log in logs:
        parts = log.loss["adversarial_cross_entropy"] + WEIGHT * log.loss["rotation_cross_entropy"]
        assert log.loss["total"] == pytest.approx(parts, rel=1e-12)

    def made(done, batch):
        return lambda net: _made(naive, net, batch, done, form)

    same(ours, rendered(theirs, [made(*pair) for pair in enumerate(batches)], gamma))
    assert int(ours.state_dict()["1.num_batches_tracked"]) == 2


def test_reference_in_train_mode_the_five_copies_are_attacked_as_by_the_authors_code_float64(naive):
    """The sum over the images plus an eighth of that over the rotated ones, which share their batch statistics."""
    objective, batch = SelfSupervised(attack=ATTACK, form="five"), naive.batches(1)[0]
    net, rng = objective.prepare(naive.network()), Streams(5, ("train", 0), batch.index)
    theirs = Naive(naive.network(), copy.deepcopy(net[-1].rotation)).train()
    made, attack = objective.stage(batch, rng, 0, 1)
    found = attack(InTrainMode(net, "frozen"), made.x, made.goal, rng=rng.of(made.index))
    x, y, r, index = _images(batch, 0, "five")
    noise = Streams(5, ("train", 0, 0, "ball"), index).uniform(1, 6, 6, low=-1, high=1, dtype=torch.float64)
    rotated = torch.tensor([turn is not None for turn in r])

    def wanted(share):
        def raised(z):
            classes, angles = theirs(z)
            turned = F.cross_entropy(angles[rotated], torch.tensor([0, 1, 2, 3] * 8), reduction="sum")
            return F.cross_entropy(classes[~rotated], y[~rotated], reduction="sum") + share * turned

        return naive.ascended((x + EPS * noise).clamp(0, 1), x, raised, eps=EPS, size=SIZE, steps=STEPS)

    torch.testing.assert_close(found, wanted(1 / 8), rtol=0, atol=1e-12)
    assert float((found - wanted(1)).abs().max()) > SIZE


def test_contract_what_is_kept_is_the_network_without_the_head(naive, stepped):
    """It shares its tensors with what is trained, in copies too, and keeps its names."""
    ours, _ = stepped(SelfSupervised(attack=ATTACK), None, naive.batches(2))
    twin = copy.deepcopy(ours)
    for trained in (ours, twin):
        kept, x = trained.without_heads, naive.batches(1)[0].x
        assert list(kept.state_dict()) == list(naive.network().state_dict())
        with evaluating(trained), evaluating(kept), torch.no_grad():
            assert torch.equal(trained(x)[:, :3], kept(x))
            assert trained(x).shape == (8, 7)
        assert int(kept[1].num_batches_tracked) == 2
    assert ours.without_heads[0].weight is ours[0].weight
    assert twin.without_heads[0].weight is twin[0].weight is not ours[0].weight
    assert not any("without_heads" in name for name in ours.state_dict())


def test_contract_the_fast_view_has_both_heads(naive):
    trained = SelfSupervised().prepare(naive.network().float()).eval()
    x = naive.batches(1)[0].x.float()
    with fast(trained, Runtime(device="cpu", precision="float32", compile="no")) as view, torch.no_grad():
        torch.testing.assert_close(view(x), trained(x), rtol=1e-4, atol=1e-5)


def test_contract_a_bare_linear_layer_gets_a_head_too():
    trained = SelfSupervised().prepare(nn.Linear(4, 3))
    assert trained(torch.rand(2, 4)).shape == (2, 7)


def test_contract_soft_targets_are_those_of_the_classes(naive):
    net, batch = SelfSupervised().prepare(naive.network()), naive.batches(1)[0]
    soft = replace(batch, target=F.one_hot(batch.y, 3).double())
    for form in ("equation", "five", "half"):
        objective, rng = SelfSupervised(form=form), Streams(0, ("x",), batch.index)
        hard_staged, soft_staged = (objective.stage(some, rng, 0, 1)[0] for some in (batch, soft))
        hard_loss, soft_loss = (objective(net.eval(), some, some.x).total for some in (hard_staged, soft_staged))
        torch.testing.assert_close(hard_loss, soft_loss)


def test_closed_form_the_losses_of_parts_of_the_five_copies_are_that_of_the_whole(naive):
    """Where memory is short: each part counts by its share, whatever copies are in it."""
    objective, batch = SelfSupervised(form="five", weight=WEIGHT), naive.batches(1)[0]
    net = objective.prepare(naive.network()).eval()
    made, _ = objective.stage(batch, Streams(0, ("x",), batch.index), 0, 1)
    whole = objective(net, made, made.x)
    upright = F.cross_entropy(net(batch.x)[:, :3], batch.y)
    torch.testing.assert_close(whole.parts["adversarial_cross_entropy"], upright, rtol=1e-12, atol=0)
    parts = [slice(0, 2), slice(2, 9), slice(9, 40)]
    found = [objective(net, rows_of(made, rows), made.x[rows]).total * (rows.stop - rows.start) for rows in parts]
    torch.testing.assert_close(sum(found) / 40, whole.total, rtol=1e-12, atol=0)


def test_contract_a_single_image_cannot_be_normalised_in_the_head(naive):
    one = rows_of(naive.batches(1)[0], slice(1))
    with pytest.raises(BadInput, match="leaves no single image over"):
        SelfSupervised.stutz().stage(one, Streams(0, ("x",), one.index), 0, 1)
    made, _ = replace(SelfSupervised.stutz(), head="linear").stage(one, Streams(0, ("x",), one.index), 0, 1)
    assert len(made) == 1


def test_contract_settings_that_cannot_be_meant_are_refused(naive):
    for changes, words in (({"weight": -1.0}, "at least 0"), ({"form": "six"}, "'five' or 'half'"),
                           ({"head": "conv"}, "'linear' or 'mlp'"), ({"attack": APGD()}, "APGD as it is set cannot"),
                           ({"attack": PGD(loss=Margin())}, "PGD as it is set cannot"),
                           ({"attack": PGD(result="misclassified")}, "two heads")):  # fmt: skip
        with pytest.raises(BadInput, match=words):
            SelfSupervised(**changes)
    assert SelfSupervised(attack=FGSM(loss=KL(), random_start=True)).attack.loss == CrossEntropy()
    with pytest.raises(BadInput, match="Flatten has none"):
        SelfSupervised().prepare(nn.Flatten())
    one = Linear(outputs="one").build(image=(1, 6, 6), classes=2, seed=0)
    with pytest.raises(BadInput, match=r"one for both; did you mean --model\.outputs classes"):
        SelfSupervised().prepare(one)
    batch = replace(naive.batches(1)[0], x=torch.rand(8, 1, 6, 5))
    with pytest.raises(BadInput, match="must be square, not 6 by 5"):
        SelfSupervised().stage(batch, Streams(), 0, 1)
    for form in ("equation", "five", "half"):  # already of the loss, before anything of a run is written
        with pytest.raises(BadInput, match="must be square, not 6 by 5"):
            SelfSupervised(form=form)(nn.Flatten(), batch, batch.x)


def test_closed_form_a_linear_network_has_the_angles_beside_its_classes():
    model = Linear().build(image=(1, 6, 6), classes=3, seed=0)
    trained, x = SelfSupervised().prepare(model), torch.rand(4, 1, 6, 6)
    logits = trained(x)
    assert logits.shape == (4, 3 + 4)
    torch.testing.assert_close(logits[:, :3], x.flatten(1) @ model.linear.weight.T + model.linear.bias)
    assert torch.equal(model(x), logits[:, :3])


def test_contract_presets():
    assert SelfSupervised.official().form == "five"
    assert (SelfSupervised.stutz().form, SelfSupervised.stutz().head, SelfSupervised.stutz().weight) == (
        "half",
        "mlp",
        4,
    )
