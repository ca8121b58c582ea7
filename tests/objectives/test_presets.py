"""Every preset as it stands, its attack included, against a naive rendering of the code that it is of, in float64."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustscape.objectives.at import AT
from robustscape.objectives.fat import FAT
from robustscape.objectives.mart import MART
from robustscape.objectives.part_at import PartAT
from robustscape.objectives.rst import RST
from robustscape.objectives.self_supervised import SelfSupervised
from robustscape.objectives.trades import TRADES
from robustscape.streams import Streams

OWN = torch.arange(8)


@dataclass(frozen=True)
class Search:
    """PGD in the linf ball: radius, step, steps, start, and which iterate is kept."""

    eps: float
    size: float
    steps: int
    start: str = "ball"
    keep: str = "last"

    def begun(self, x, index, done):
        rng = Streams(5, ("train", done, 0, self.start), index)
        if self.start == "gaussian":
            return (x + 0.001 * rng.normal(1, 6, 6, dtype=torch.float64)).clamp(0, 1)
        if self.start == "direction":
            normal, share = rng.normal(1, 6, 6, dtype=torch.float64), Streams(5, ("train", done, 0, "radius"), index)
            each = zip(x, normal, share.uniform(dtype=torch.float64), strict=True)
            return torch.stack([(z + self.eps * u * d / d.abs().max()).clamp(0, 1) for z, d, u in each])
        return (x + self.eps * rng.uniform(1, 6, 6, low=-1, high=1, dtype=torch.float64)).clamp(0, 1)

    def moved(self, here, x, slope):
        here = here + self.size * slope.sign()
        return torch.min(torch.max(here, x - self.eps), x + self.eps).clamp(0, 1)

    def found(self, x, here, each):
        """Raise ``each(x_adv)``, the loss of every image."""
        kept, best = x, torch.full((len(x),), -torch.inf, dtype=torch.float64)
        for k in range(self.steps + 1):
            here = here.detach().requires_grad_()
            losses = each(here)
            (slope,) = torch.autograd.grad(losses.sum(), here)
            here, losses = here.detach(), losses.detach()
            kept = torch.stack([a if b else c for a, b, c in zip(here, losses > best, kept, strict=True)])
            best = torch.maximum(best, losses)
            if k < self.steps:
                here = self.moved(here, x, slope)
        return kept if self.keep == "best" else here


PGD_10 = Search(0.031, 0.007, 10, "gaussian")
STUTZ = Search(0.0314, 0.007, 7, "direction", keep="best")


def _kl(p, q):
    return (p * (p.log() - q.log())).sum(dim=1)


def _errors(net, y):
    return lambda z: F.cross_entropy(net(z), y, reduction="none")


def _divergences(net, x):
    p = net(x).softmax(1).detach()
    return lambda z: _kl(p, net(z).softmax(1))


# -- losses, of a network in train mode ------------------------------------------------------------------


def _trades(net, batch, x_adv, order):
    """In an order of forwards: c of the clean inputs, a of the adversarial ones."""
    outputs = [net(batch.x if which == "c" else x_adv) for which in order]
    cleans = [output for output, which in zip(outputs, order, strict=True) if which == "c"]
    counted, like = (cleans[0], cleans[-1]) if order[0] == "c" else (cleans[-1], cleans[0])
    adversarial = outputs[order.index("a")]
    return F.cross_entropy(counted, batch.y) + 6 * _kl(like.softmax(1), adversarial.softmax(1)).mean()


def _mart(net, batch, x_adv, beta, order):
    made = {which: net(batch.x if which == "c" else x_adv) for which in order}
    p, q = made["c"].softmax(1), made["a"].softmax(1)
    wrong = q.scatter(1, batch.y[:, None], 0.0).amax(dim=1)
    boosted = F.cross_entropy(made["a"], batch.y, reduction="none") - (1.0001 - wrong + 1e-12).log()
    return (boosted + beta * _kl(p, q + 1e-12) * (1.0000001 - p[OWN, batch.y])).mean()


def _error(net, batch, x_adv):
    return F.cross_entropy(net(x_adv), batch.y)


def _without_mistakes(net, batch, x_adv):
    right = net(batch.x).argmax(dim=1) == batch.y
    return _error(net, batch, torch.stack([a if ok else x for a, ok, x in zip(x_adv, right, batch.x, strict=True)]))


# -- attacks of a network in eval mode: (net, batch, done) -> x_adv ----------------------------------------


def _by_errors(net, batch, done, search, first=0, predicted=False):
    x, y, index = batch.x[first:], batch.y[first:], batch.index[first:]
    y = net(x).argmax(dim=1) if predicted else y
    return torch.cat([batch.x[:first], search.found(x, search.begun(x, index, done), _errors(net, y))])


def _by_divergences(net, batch, done, search):
    return search.found(batch.x, search.begun(batch.x, batch.index, done), _divergences(net, batch.x))


def _stopped(net, batch, done, search, omega=0.0, divergence=False):
    """Algorithm 1 with tau 0, image by image: the first misclassified iterate, or the last one."""
    made, begun = [], search.begun(batch.x, batch.index, done)
    for row, (x, y) in enumerate(zip(batch.x, batch.y, strict=True)):
        x, y, here = x[None], y[None], begun[row : row + 1]
        each = _divergences(net, x) if divergence else _errors(net, y)
        for k in range(search.steps):
            if net(here).argmax() != y:
                break
            here = here.detach().requires_grad_()
            (slope,) = torch.autograd.grad(each(here).sum(), here)
            noise = Streams(5, ("train", done, "step", k), batch.index).normal(1, 6, 6, dtype=torch.float64)[row]
            moved = here.detach() + search.size * slope.sign() + omega * noise
            here = torch.min(torch.max(moved, x - search.eps), x + search.eps).clamp(0, 1)
        made.append(here.detach())
    return torch.cat(made)


def _stopped_by_stutz(net, batch, done, search):
    """The first misclassified iterate, or the clean image."""
    made, begun = [], search.begun(batch.x, batch.index, done)
    for row, (x, y) in enumerate(zip(batch.x, batch.y, strict=True)):
        here, kept = begun[row : row + 1], x[None]
        for _ in range(search.steps + 1):
            if net(here).argmax() != y:
                kept = here
                break
            here = here.detach().requires_grad_()
            (slope,) = torch.autograd.grad(_errors(net, y[None])(here).sum(), here)
            here = search.moved(here.detach(), x[None], slope)
        made.append(kept.detach())
    return torch.cat(made)


FRIENDLY = replace(PGD_10, start="ball")
CASES = {
    "at": (AT(), partial(_by_errors, search=Search(8 / 255, 2 / 255, 10)), _error),
    "trades": (TRADES.official(), partial(_by_divergences, search=PGD_10), partial(_trades, order="cac")),
    "trades of wu": (
        TRADES.wu(),
        partial(_by_divergences, search=Search(8 / 255, 2 / 255, 10, "gaussian")),
        partial(_trades, order="acc"),
    ),
    "mart": (MART.official(), partial(_by_errors, search=PGD_10), partial(_mart, beta=5, order="ca")),
    "rst": (RST.official(), partial(_by_divergences, search=PGD_10), partial(_trades, order="ca")),
    "rst of stutz": (RST.stutz(), partial(_by_errors, search=STUTZ), _error),
    "part_at": (PartAT.official(), partial(_by_errors, search=STUTZ, first=4), _error),
    "part_at, right ones": (PartAT.ignore_incorrect(), partial(_by_errors, search=STUTZ), _without_mistakes),
    "part_at, predicted": (PartAT.prevent_label_leaking(), partial(_by_errors, search=STUTZ, predicted=True), _error),
    "fat": (FAT.official(), partial(_stopped, search=FRIENDLY, omega=0.001), _error),
    "fat, trades": (FAT.trades(), partial(_stopped, search=PGD_10, divergence=True), partial(_trades, order="ca")),
    "fat, mart": (FAT.mart(), partial(_stopped, search=PGD_10), partial(_mart, beta=6, order="ac")),
    "fat of stutz": (FAT.stutz(), partial(_stopped_by_stutz, search=STUTZ), _error),
}


@pytest.mark.parametrize("name", CASES)
def test_reference_steps_of_a_preset_in_float64(name, naive, stepped, rendered, same):
    objective, attacked, loss = CASES[name]
    batches = [replace(batch, labelled=OWN % 3 == 1) if "rst" in name else batch for batch in naive.batches(2)]
    ours, _ = stepped(objective, None, batches)

    def made(done, batch):
        def of(net):
            x_adv = attacked(net.eval(), batch, done)
            return lambda network: loss(network.train(), batch, x_adv)

        return of

    same(ours, rendered(naive.network(), [made(*pair) for pair in enumerate(batches)]))


# -- two heads -------------------------------------------------------------------------------------------


class Two(nn.Module):
    """A trunk and two heads."""

    def __init__(self, network, head):
        super().__init__()
        self.trunk, self.classes, self.rotation = network[:-1], network[-1], head


def _own(net, y, turns):
    """The loss of every image on its own head: of the classes where it is not turned, -1."""

    def of(z):
        features = net.trunk(z)
        error = F.cross_entropy(net.classes(features), y, reduction="none")
        rotation = F.cross_entropy(net.rotation(features), turns.clamp(min=0), reduction="none")
        return torch.where(turns < 0, error, rotation)

    return of


def _five(batch, done):
    x = torch.stack([torch.rot90(image, k, (1, 2)) for image in batch.x for k in (0, 0, 1, 2, 3)])
    index = torch.tensor([int(i) + k * 2**40 for i in batch.index for k in range(5)])
    return x, batch.y.repeat_interleave(5), torch.tensor([-1, 0, 1, 2, 3] * 8), index


def _half(batch, done):
    drawn = Streams(5, ("train", done, "rotation"), batch.index).integers(4)
    turns = torch.where(OWN % 2 == 1, drawn, -1)
    x = [torch.rot90(image, max(int(k), 0), (1, 2)) for image, k in zip(batch.x, turns, strict=True)]
    return torch.stack(x), batch.y, turns, batch.index


@pytest.mark.parametrize(
    ("objective", "images", "search", "weight"),
    [
        (SelfSupervised.official(), _five, Search(8 / 255, 2 / 255, 10), 0.5),
        (SelfSupervised.stutz(), _half, STUTZ, 4.0),
    ],
    ids=["official", "stutz"],
)
def test_reference_steps_of_a_preset_with_two_heads_in_float64(
    objective, images, search, weight, naive, stepped, rendered, same
):
    rotation = copy.deepcopy(objective.prepare(naive.network())[-1].rotation)
    theirs, batches = Two(naive.network(), rotation), naive.batches(2)
    ours, _ = stepped(objective, None, batches)

    def made(done, batch):
        def of(net):
            x, y, turns, index = images(batch, done)
            x_adv = search.found(x, search.begun(x, index, done), _own(net.eval(), y, turns))

            def loss(network):
                each = _own(network.train(), y, turns)(x_adv)
                return each[turns < 0].mean() + weight * each[turns >= 0].mean()

            return loss

        return of

    same(ours, rendered(theirs, [made(*pair) for pair in enumerate(batches)]))
