"""Adversarial training on a part of each batch, against a naive rendering in float64."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.objectives.at import AT
from robustscape.objectives.part_at import PartAT
from robustscape.streams import Streams
from robustscape.types import BadInput, Batch
from robustscape.weights.awp import AWP

EPS, SIZE, STEPS, GAMMA = 0.1, 0.03, 3, 0.02
ATTACK = PGD(threat=ThreatModel(eps=EPS), steps=STEPS, step_size=SIZE)


def _attacked(naive, net, batch, done, share, labels):
    net.eval()
    first = int((1 - share) * 8)
    x, y = batch.x[first:], batch.y[first:]
    wanted = net(x).argmax(dim=1) if labels == "predicted" else y
    rng = Streams(5, ("train", done, 0, "ball"), batch.index)
    noise = rng.uniform(1, 6, 6, low=-1, high=1, dtype=torch.float64)[first:]
    start = (x + EPS * noise).clamp(0, 1)
    x_adv = naive.ascended(start, x, lambda z: F.cross_entropy(net(z), wanted), eps=EPS, size=SIZE, steps=STEPS)
    return torch.cat([batch.x[:first], x_adv])


def _loss(net, batch, x_adv, misclassified):
    net.train()
    if misclassified == "clean":
        right = net(batch.x).argmax(dim=1) == batch.y
        x_adv = torch.stack([adv if ok else x for x, adv, ok in zip(batch.x, x_adv, right, strict=True)])
    return F.cross_entropy(net(x_adv), batch.y)


@pytest.mark.parametrize(
    "changes",
    [{"share": 0.5}, {"share": 0.3}, {"share": 1.0, "labels": "predicted"}, {"share": 1.0, "misclassified": "clean"},
     {"share": 0.6, "labels": "predicted", "misclassified": "clean"}],
)  # fmt: skip
@pytest.mark.parametrize("gamma", [0.0, GAMMA])
def test_reference_steps_in_float64(changes, gamma, naive, stepped, rendered, same):
    batches = naive.batches(3)
    objective = PartAT(attack=ATTACK, **changes)
    ours, _ = stepped(objective, AWP(gamma=gamma) if gamma else None, batches)

    def made(done, batch):
        def of(net):
            x_adv = _attacked(naive, net, batch, done, objective.share, objective.labels)
            return partial(_loss, batch=batch, x_adv=x_adv, misclassified=objective.misclassified)

        return of

    same(ours, rendered(naive.network(), [made(*pair) for pair in enumerate(batches)], gamma))
    assert int(ours.state_dict()["1.num_batches_tracked"]) == 3 * (1 + (objective.misclassified == "clean"))


def test_closed_form_of_the_whole_batch_it_is_at(naive, stepped):
    batches = naive.batches(2)
    whole, _ = stepped(PartAT(attack=ATTACK, share=1.0), None, batches)
    plain, _ = stepped(AT(attack=ATTACK), None, batches)
    for one, other in zip(whole.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_contract_the_log_tells_both_parts_apart(naive, stepped):
    _, (log,) = stepped(PartAT(attack=ATTACK, share=0.25), None, naive.batches(1))
    parts = log.loss
    mean = 0.75 * parts["clean_cross_entropy"] + 0.25 * parts["adversarial_cross_entropy"]
    assert parts["total"] == pytest.approx(mean, rel=1e-12)
    assert parts["adversarial_cross_entropy"] > 0


def test_contract_the_rest_is_not_attacked_at_all(naive):
    sizes, net, batch = [], naive.network(), naive.batches(1)[0]
    objective = PartAT(attack=replace(ATTACK, steps=1), share=0.5)
    rng = Streams(0, ("x",), batch.index)
    _, attack = objective.stage(batch, rng, 0, 1)
    net.register_forward_hook(lambda *given: sizes.append(len(given[1][0])))
    x_adv = attack.at(0.2)(net, batch.x, batch.y, rng=rng)
    assert set(sizes) == {4} and torch.equal(x_adv[:4], batch.x[:4])
    assert bool((x_adv[4:] != batch.x[4:]).flatten(1).any(dim=1).all())
    assert 0.1 < float((x_adv - batch.x).abs().max()) <= 0.2 + 1e-12


def test_contract_settings_that_cannot_be_meant_are_refused():
    for changes, words in (({"share": 0.0}, "natural"), ({"share": 1.5}, r"in \(0, 1\]"),
                           ({"labels": "none"}, "'true' or 'predicted'"),
                           ({"misclassified": "no"}, "left 'clean'")):  # fmt: skip
        with pytest.raises(BadInput, match=words):
            PartAT(**changes)
    assert PartAT.ignore_incorrect().misclassified == "clean"
    assert PartAT.prevent_label_leaking().labels == "predicted"
    assert PartAT.official().share == 0.5


@pytest.mark.parametrize(("share", "n", "attacked"), [(0.8, 10, 8), (0.9, 10, 9), (0.3, 8, 3), (0.5, 1, 1)])
def test_closed_form_a_share_of_a_batch_is_rounded_up_to_whole_images(share, n, attacked):
    """0.1 of 10 images is 1, though 1 - 0.9 is a little less than 0.1 in floating point."""

    def seen(model, x, y, *, rng=None):
        return x + len(x)

    batch = Batch(x=torch.zeros(n, 1, 2, 2), y=torch.zeros(n, dtype=torch.int64), index=torch.arange(n))
    _, attack = PartAT(attack=ATTACK, share=share).stage(batch, Streams(), 0, 1)
    x_adv = replace(attack, attack=seen)(None, batch.x, batch.y)
    assert x_adv[:, 0, 0, 0].tolist() == [0.0] * (n - attacked) + [float(attacked)] * attacked
