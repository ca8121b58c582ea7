"""Guards: what a training that has gone wrong shows at the end of an epoch, on a few of its own examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.judging import performance, predicted
from robustscape.evaluation.units import relu_units
from robustscape.runtime import PlainView, Runtime
from robustscape.runtime.counting import passes
from robustscape.runtime.ranks import from_first
from robustscape.training.batch_loss import foremost
from robustscape.training.method import Method
from robustscape.types import Attack, Batch, Diverged, Subject

_LEAST, _MOST = 64, 256  # examples
_SHARE = 1 / 180  # of the epoch's examples: against training with one attack step, PGD-10 on them costs 3 %
_CONSTANT = 1e-3  # probabilities that differ by less are no answer to the input
_LOST = 0.2  # robust accuracy that the cheap attack shows and the strong one does not, at least
_STEPS = 10  # of the strong attack


def noticed(
    how: Method, batches: Iterable[Batch], *, examples: int, eps: float | None, seed: int, runtime: Runtime
) -> tuple[str, ...]:
    """Return what is wrong with the network that a method trains, a sentence each; leaves no trace.

    "constant output": the class probabilities are the same for all examples. "dead layer": no unit of a ReLU fires on
    any example (Liu 2020, https://arxiv.org/abs/2006.08403, section 4.1). "catastrophic overfitting" (Wong 2020,
    https://arxiv.org/abs/2001.03994, section 5.4): at most half as many examples withstand PGD-10 as withstand the
    training's own attack in the same ball, a fifth of all fewer. This is looked for where the training's attack follows
    a gradient for fewer steps than that, at the radius that training has come to.

    All of it in eval mode, on the first of the given examples, a share of the epoch's: at least 64, at most 256. A
    mixed image withstands where it is classified as the image of which it has the larger share.
    A network that gives NaN shows nothing here: the next step says where it came from.

    Args:
        how: The method.
        batches: Training examples, as many as there are; so many are taken as are needed.
        examples: Training examples of an epoch.
        eps: Radius of the last step's attack, None without an attack.
        seed: Seed of the attacks.
        runtime: How to use the machine.
    """
    looked_at = _looked_at(how, batches, round(min(max(examples * _SHARE, _LEAST), _MOST)), seed, runtime)
    found = _dead(looked_at)
    attack = how.objective.attack
    if not found and attack is not None and eps:
        found = _overfitted(looked_at, attack.at(eps))
    return from_first(tuple(found))


def _looked_at(how: Method, batches: Iterable[Batch], n: int, seed: int, runtime: Runtime) -> Subject:
    """Return the network that is trained, without further heads, with the first n examples."""
    some: list[Batch] = []
    for batch in batches:
        some.append(batch)
        if sum(map(len, some)) >= n:
            break
    x, index = (torch.cat([getattr(batch, name) for batch in some])[:n] for name in ("x", "index"))
    y = torch.cat([foremost(batch) for batch in some])[:n]
    network: nn.Module = vars(how.model).get("without_heads", how.model)
    view = how.view if network is how.model else PlainView(network)
    size = how.settings.batch_size
    return Subject(
        model=network, x=x, y=y, index=index, seed=seed, view=view, batch=size, runtime=runtime, parts=how.parts
    )


def _dead(subject: Subject) -> Sequence[str]:
    logits = predicted(subject.model, subject.x, subject.parts)
    if not bool(torch.isfinite(logits).all()):
        return ()
    n, found = len(subject.x), []
    units = relu_units(subject)
    for name, count, dead in zip(units["activations"], units["units"], units["dead"], strict=True):
        if dead == count:
            found.append(f"dead layer: none of the {count} units of {name} fires on {n} training images")
    p = logits.softmax(dim=1)
    spread = float((p.amax(dim=0) - p.amin(dim=0)).amax())
    if n > 1 and spread < _CONSTANT:
        found.append(f"constant output: the class probabilities of {n} training images differ by at most {spread:.1g}")
    return found


def _overfitted(subject: Subject, attack: Attack) -> Sequence[str]:
    threat = attack.threat
    assert isinstance(threat, ThreatModel), "the only threat model so far"
    if threat.norm not in ("linf", "l2"):
        return ()
    strong = PGD(threat=threat, steps=_STEPS)
    few = slice(2)
    try:
        cost = passes(attack, subject.model, subject.x[few], subject.y[few])
        if not 0 < cost < _STEPS:  # noise asks no gradient, and promises nothing against one
            return ()
        cheap, dear = (1 - performance(subject, each, "guard").robust_error for each in (attack, strong))
    except Diverged:
        return ()
    if dear > cheap / 2 or cheap - dear < _LOST:
        return ()
    return (
        f"catastrophic overfitting: {cheap:.0%} of {len(subject.x)} training images withstand {attack.describe()}, "
        f"{dear:.0%} withstand {strong.describe()}",
    )
