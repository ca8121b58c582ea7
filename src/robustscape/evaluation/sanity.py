"""Is a number about robustness to be believed? What speaks against it, looked for on a few examples.

Refusals (``checks``) are about what cannot be; these findings about what can only be suspected: gradients that lead
nowhere, attacks that were not given enough, models that are not what they seem (Athalye 2018,
https://arxiv.org/abs/1802.00420, section 3; Carlini 2019, https://arxiv.org/abs/1902.06705, section 4).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from robustscape.attacks.apgd import APGD
from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.pgd import PGD
from robustscape.attacks.square import Square
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation import suspicions
from robustscape.evaluation.checks import check_images, check_logits
from robustscape.evaluation.judging import batches, predicted, search
from robustscape.evaluation.result import Finding
from robustscape.evaluation.searching import searching, tally
from robustscape.evaluation.subject import check_surrogate, drained
from robustscape.modes import frozen_statistics
from robustscape.types import Attack, BadInput, Subject

FEW = 0.03
"""Share of the examples by which an attack may be better than it should be: more is a finding."""

_FEWEST = 3  # of few examples, so many more may be chance
_LEFT = 0.05  # robust accuracy that a large eps may leave


def sanity(
    subject: Subject,
    threat: ThreatModel,
    *,
    n: int = 128,
    steps: int = 20,
    queries: int = 200,
    fooled: Tensor | None = None,
    followed: Tensor | None = None,
    searched: Tensor | None = None,
    surrogate: nn.Module | None = None,
) -> tuple[Finding, ...]:
    """Look for reasons not to believe a robust accuracy; every look is a finding, fired or not.

    Without a threat model's attacks: "pixels", "train mode", "randomness", "probabilities", "chance", "vanishing
    gradients". With them, on the examples that are classified correctly: "FGSM" stronger than PGD, "catastrophic
    overfitting" (one step fails, many do not), "black box" (Square) stronger than what follows gradients, "more
    effort" that finds more, "large eps" that leaves something, "robust above clean", and "transfer" from a surrogate.
    What follows gradients here is PGD of step eps / 4, under l1 APGD of twice the steps.

    An example takes at most 6 ``steps`` + ``queries`` forwards or so, and 6 ``steps`` backwards. Random
    numbers are those of the subject's seed; model and random state are left as they were.

    Args:
        subject: The model and the examples.
        threat: Ball and box of the evaluation.
        n: Examples that are looked at, the first of the subject.
        steps: Steps of PGD, of one start.
        queries: Forwards of the black-box search.
        fooled: (N,), bool, which of the subject's examples the evaluation counts as misclassified, without attack
            or under any; None before one.
        followed: (N,), bool, which of them attacks that follow gradients, in more than one step, have fooled; None for
            not known.
        searched: (N,), bool, which of them attacks that need no gradient, such as Square and SPSA, have fooled though
            those before had not; None for not known. They count with what the black-box search finds here.
        surrogate: Another model of the same inputs and classes, in the subject's dtype, on its device: what PGD
            finds for it is tried on the subject's; None to leave that out.

    Returns:
        The findings, always in the same order; "transfer" only where there is a surrogate.

    Raises:
        BadInput: images, logits, flags or a surrogate that cannot be meant, or n, steps or queries below 1.
        Diverged: a loss or a gradient is not finite.
    """
    for name, value in (("n", n), ("steps", steps), ("queries", queries)):
        if value < 1:
            raise BadInput(f"{name} must be at least 1, not {value}")
    for flags in (fooled, followed, searched):
        if flags is not None and (flags.shape != subject.y.shape or flags.dtype != torch.bool):
            raise BadInput(f"{len(subject.y)} examples need as many flags, bool, not {tuple(flags.shape)}")
    few = replace(subject, **{name: getattr(subject, name)[:n] for name in ("x", "y", "index")})
    check_images(few.x, few.y, len(few.classes))
    if surrogate is not None:
        check_surrogate(surrogate, few)
    with _untouched(few):
        look = _Look(few, steps)
        check_logits(look.logits, len(few.x), len(few.classes))
        findings = [*suspicions.of_the_model(few, look.logits), suspicions.vanishing(few, threat)]
        flagged = (fooled, followed, searched)
        known, white, blind = (None if flags is None else flags[:n].to(few.y.device) for flags in flagged)
        return (*findings, *_of_attacks(look, threat, queries, known, white, blind, surrogate))


@contextmanager
def _untouched(subject: Subject) -> Iterator[None]:
    """Keep buffers and torch's random state as they are; a model that draws does so from the subject's seed."""
    devices = range(torch.cuda.device_count()) if subject.x.is_cuda else ()
    with torch.random.fork_rng(devices=list(devices)), frozen_statistics(subject.model):
        torch.default_generator.manual_seed(subject.seed)
        if subject.x.is_cuda:
            torch.cuda.manual_seed_all(subject.seed)
        yield


class _Look:
    """The examples, what the model makes of them, and what attacks do to them."""

    def __init__(self, subject: Subject, steps: int) -> None:
        self.subject = subject
        self.steps = steps
        model, parts = subject.model, subject.parts
        logits = [predicted(model, subject.x[rows], parts)[:count] for rows, count in batches(subject)]
        self.logits = torch.cat(logits)
        self.right = self.logits.argmax(dim=1) == subject.y

    def fooled(self, attack: Attack, which: Tensor, name: str) -> Tensor:
        """Return which of the examples marked an attack fools, as the model itself sees it, (n,), bool."""
        found = tally(self.subject, keep=False)
        rows = which.nonzero().flatten()
        drained(searching(self.subject, attack, rows, self.logits, found, "sanity", name))
        return found.wrong

    def carried(self, attack: Attack, which: Tensor, surrogate: nn.Module) -> Tensor:
        """Return which of the examples marked are fooled by what an attack finds for another model, (n,), bool."""
        wrong = torch.zeros_like(self.right)
        for rows, count in batches(self.subject, which.nonzero().flatten()):
            found = search(self.subject, surrogate, attack, rows, "sanity", "transfer")
            wrong[rows[:count]] = found.wrong[:count]
        return wrong

    def following(self, threat: ThreatModel, *, effort: int = 1) -> Attack:
        """Return what follows gradients, ``effort`` times as long and as often."""
        if threat.norm == "l1":
            return APGD(threat=threat, steps=max(3, effort * 2 * self.steps), restarts=effort)
        return PGD(threat=threat, steps=effort * self.steps, restarts=effort, result="misclassified")


def _of_attacks(
    look: _Look,
    threat: ThreatModel,
    queries: int,
    fooled: Tensor | None,
    followed: Tensor | None,
    searched: Tensor | None,
    surrogate: nn.Module | None,
) -> Iterator[Finding]:
    """Give what attacks say about one another."""
    right, n = look.right, len(look.right)
    attack = look.following(threat)
    words = attack.describe()
    alone = look.fooled(attack, torch.ones_like(right), "follow")
    gradient = alone if followed is None else alone | followed
    known = gradient if fooled is None else gradient | fooled
    if threat.norm != "l1":
        yield from _single_step(look, threat, gradient, words)
    square = Square(threat=threat, queries=queries, rescale=True)
    rest = right & ~gradient
    guessed = torch.zeros_like(rest) if searched is None else rest & searched
    better = int((guessed | look.fooled(square, rest & ~guessed, "black box")).sum())
    blind = square.describe() + " or the evaluation's own" * bool(guessed.any())
    yield _more("black box", better, n, f"{blind} fools {better} of {n} that many steps along gradients do not")
    longer = look.following(threat, effort=2)
    better = int(look.fooled(longer, right & ~known, "more").sum())
    yield _more("more effort", better, n, f"{longer.describe()} fools {better} of {n} that nothing before did")
    large = look.following(replace(threat, eps=_large(threat, look.subject.x)))
    left = int((right & ~look.fooled(large, right, "large")).sum())
    yield Finding(
        name="large eps",
        fired=left / n > _LEFT,
        evidence=f"{large.describe()} leaves {left} of {n} classified correctly, though it may make them all alike",
        value=left / n,
        limit=_LEFT,
        n=n,
    )
    yield _above(right, alone, fooled, words)
    if surrogate is not None:
        carrying = replace(attack, result="best_loss") if isinstance(attack, PGD) else attack
        better = int(look.carried(carrying, right & ~known, surrogate).sum())
        yield _more(
            "transfer", better, n, f"what {words} finds for the surrogate fools {better} of {n} that nothing before did"
        )


def _more(name: str, better: int, n: int, evidence: str) -> Finding:
    limit = max(FEW, _FEWEST / n)
    return Finding(name=name, fired=better / n > limit, evidence=evidence, value=better / n, limit=limit, n=n)


def _single_step(look: _Look, threat: ThreatModel, gradient: Tensor, words: str) -> Iterator[Finding]:
    """Give what one step says beside many."""
    right, n = look.right, len(look.right)
    fgsm = look.fooled(FGSM(threat=threat), right, "FGSM")
    better = int((fgsm & ~gradient).sum())
    yield _more("FGSM", better, n, f"one step of FGSM fools {better} of {n} that {words} and its like do not")
    clean, one, many = (int(flags.sum()) for flags in (right, right & ~fgsm, right & ~gradient))
    yield Finding(
        name="catastrophic overfitting",
        fired=2 * one > clean > 0 and 2 * many < one,
        evidence=f"of {clean} classified correctly, {one} withstand one step of FGSM and {many} {words}",
        value=1 - many / one if one else 0.0,
        limit=0.5,
        n=n,
    )


def _above(right: Tensor, alone: Tensor, fooled: Tensor | None, words: str) -> Finding:
    """Return whether an attack, or the evaluation, leaves more right than there are without attack."""
    n, clean = len(right), int(right.sum())
    robust = {words: int((~alone).sum())}
    if fooled is not None:
        robust["the evaluation"] = int((~fooled).sum())
    most = max(robust, key=lambda name: robust[name])
    return Finding(
        name="robust above clean",
        fired=robust[most] > clean,
        evidence=f"{clean} of {n} are classified correctly without attack, {robust[most]} under {most}",
        value=(robust[most] - clean) / n,
        limit=0.0,
        n=n,
    )


def _large(threat: ThreatModel, x: Tensor) -> float:
    """Return an eps at which any image can become nearly any other: half the range, for as many pixels as there are."""
    pixels = x[0].numel()
    reach = {"linf": 0.5, "l2": min(30.0, 0.5 * pixels**0.5), "l1": min(1000.0, 0.5 * pixels)}
    return max(threat.eps, reach[threat.norm])
