"""Clean and robust accuracy and loss of any model, counted only where confirmed by the model itself.

``evaluate(model, x, y, eps=8/255)`` is the whole of it for most; ``evaluating`` is the same as a generator that
tells how far it is.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.noise import Noise
from robustscape.attacks.pgd import PGD
from robustscape.attacks.spsa import SPSA
from robustscape.attacks.square import Square
from robustscape.attacks.threat import ThreatModel
from robustscape.config import to_plain
from robustscape.evaluation.adversarial import Stored
from robustscape.evaluation.fingerprint import fingerprint
from robustscape.evaluation.intervals import bootstrap_mean, wilson
from robustscape.evaluation.jobs import Job, jobs_of, note_of, rows_of
from robustscape.evaluation.passes import MeanLogits, on_own_draws
from robustscape.evaluation.result import Evaluation, Finding, Number
from robustscape.evaluation.sanity import sanity
from robustscape.evaluation.searching import Tally, searching, tally
from robustscape.evaluation.standing import Standing, keep_standing, read_standing, searches, standing
from robustscape.evaluation.subject import check_surrogate, drained, in_batches, precision, subject
from robustscape.evaluation.suites import Entry, Name, budget, entries, given
from robustscape.results import provenance, stopwatch
from robustscape.runtime import Runtime, threads
from robustscape.runtime.ranks import from_first, is_first, rank, share, world
from robustscape.types import Attack, BadInput, Subject

_KEEP_EVERY = 30.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Evaluating:
    """The attacks and examples that judge a model.

    PGD for the largest loss on every example, then the attacks of a suite for a misclassified input. Loss and error are
    the worst over the clean input and everything that was found.

    Attributes:
        suite: Which attacks. "quick": PGD alone, of ``steps`` and ``restarts``. "standard": then APGD on two losses and
            Square. "wu": the columns of Wu 2020, Table 2. "autoattack", "autoattack-plus", "autoattack-rand":
            AutoAttack's versions.
        attacks: Attacks in place of the suite's, each on what those before left.
        norm: Norm of the threat model, "linf", "l2" or "l1".
        eps: Its radius in pixel units: 8/255, not 8.
        steps: Steps of the PGD of quick and standard.
        restarts: Its random starts; 0 leaves it out.
        loss_steps: Steps of the search for the largest loss.
        loss_restarts: Its random starts; 0 leaves it out. There is none under l1.
        step_size: Length of a step of both in pixel units; None for eps / 4.
        n: Examples, the first of each split; None for all.
        passes: Passes whose mean logits judge a model random on purpose; None for as many as an attack's gradient is
            the mean of: 20 in autoattack-rand and its like, else 1.
        batch_size: Examples per forward.
        sanity: Examples on which reasons not to believe the numbers are looked for, the first; 0 leaves it out.
        splits: Which splits are evaluated: "test", "train", "validation".
    """

    suite: Name = "quick"
    attacks: tuple[Attack, ...] = ()
    norm: Literal["linf", "l2", "l1"] = "linf"
    eps: float = 8 / 255
    steps: int = 50
    restarts: int = 2
    loss_steps: int = 20
    loss_restarts: int = 2
    step_size: float | None = None
    n: int | None = 1000
    passes: int | None = None
    batch_size: int = 250
    sanity: int = 128
    splits: tuple[Literal["test", "train", "validation"], ...] = ("test", "train")

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name in ("restarts", "loss_restarts", "sanity"):
            if getattr(self, name) < 0:
                raise BadInput(f"{name} must be at least 0, not {getattr(self, name)}")
        if self.n is not None and self.n < 1:
            raise BadInput(f"n must be at least 1, not {self.n}; did you mean None, for all examples?")
        if self.passes is not None and self.passes < 1:
            raise BadInput(f"passes must be at least 1, not {self.passes}")
        if self.batch_size < 1:
            raise BadInput(f"batch_size must be at least 1, not {self.batch_size}")
        for attack in self.attacks:
            if (attack.threat.norm, attack.threat.eps) != (self.norm, self.eps):
                raise BadInput(f"{attack.describe()} has another threat model than {self.norm}, eps {self.eps:g}")
            if getattr(attack, "targeted", False):
                raise BadInput(
                    f"{attack.describe()} leads to the label that it is given, and an evaluation gives it the right "
                    "one; did you mean targeted=False?"
                )
        self.entries()
        if self.norm != "l1":
            self.loss_attack()

    def judging_passes(self) -> int:
        """Return how many passes' mean logits judge the model."""
        attacks = [attack for one in self.entries() for attack in one.parts.values()]
        return self.passes or max((getattr(attack, "eot", 1) for attack in attacks), default=1)

    def threat(self) -> ThreatModel:
        """Return the threat model."""
        return ThreatModel(norm=self.norm, eps=self.eps)

    def entries(self) -> tuple[Entry, ...]:
        """Return the attacks for a misclassified input, in their order."""
        if self.attacks:
            return given(self.attacks)
        found = entries(self.suite, self.threat(), self._quick)
        return found if self.restarts else tuple(one for one in found if one.name != "PGD")

    def _quick(self) -> PGD:
        return PGD(
            threat=self.threat(),
            steps=self.steps,
            step_size=self.step_size,
            restarts=max(self.restarts, 1),
            result="misclassified",
        )

    def loss_attack(self) -> PGD:
        """Return one start of the search for the largest loss."""
        return PGD(threat=self.threat(), steps=self.loss_steps, step_size=self.step_size, result="best_loss")

    def words(self) -> str:
        """Return all searches in words, for captions."""
        parts = []
        if self.loss_restarts and self.norm != "l1":
            parts.append(f"{replace(self.loss_attack(), restarts=self.loss_restarts).describe()} for loss")
        for one in self.entries():
            attacks = [attack.describe() for attack in one.parts.values()]
            parts.append(f"{one.name}: {', '.join(attacks)}" if len(attacks) > 1 else f"{attacks[0]} for error")
        return ", ".join(parts) or "none"


def evaluate(
    model: nn.Module,
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    *,
    eps: float = 8 / 255,
    norm: Literal["linf", "l2", "l1"] = "linf",
    suite: Name = "quick",
    attacks: Sequence[Attack] = (),
    passes: int | None = None,
    steps: int = 50,
    restarts: int = 2,
    loss_steps: int = 20,
    loss_restarts: int = 2,
    step_size: float | None = None,
    batch_size: int = 250,
    sanity: int = 128,
    seed: int = 0,
    runtime: Runtime | None = None,
    classes: Sequence[str] = (),
    surrogate: nn.Module | None = None,
) -> Evaluation:
    """Return clean and robust error and loss of a model on the examples given, with 95 % intervals.

    Args:
        model: Maps pixels in [0, 1] to logits, any mode; left without a trace.
        x: (N, C, H, W), floats in [0, 1].
        y: (N,), integer labels.
        eps: Radius of the threat model in pixel units: 8/255, not 8.
        norm: Its norm, "linf", "l2" or "l1".
        suite: Which attacks: "quick", "standard", "wu", "autoattack" and its kind; see ``Evaluating``.
        attacks: Attacks in place of the suite's, each on what those before left.
        passes: Passes whose mean logits judge a model random on purpose; None for as many as an attack's gradient is
            the mean of: 20 in autoattack-rand and its like, else 1.
        steps: Steps of the PGD of quick and standard.
        restarts: Its random starts.
        loss_steps: Steps of the search for the largest loss.
        loss_restarts: Its random starts.
        step_size: Length of a step of both, in pixel units; None for eps / 4.
        batch_size: Examples per forward.
        sanity: Examples on which reasons not to believe the numbers are looked for; 0 leaves it out.
        seed: Seed of all random numbers.
        runtime: Arithmetic of the search; by default the fastest that is known to be right.
        classes: Class names; by default their numbers.
        surrogate: Another model of the same inputs and classes: what an attack finds for it is tried on this one, and
            said where it is stronger than the attacks; None for none.

    Returns:
        See ``Evaluation``. What counts and how it is searched: ``evaluating``. Reasons not to believe the numbers that
        were found are warnings too.

    Raises:
        BadInput: images outside [0, 1], labels outside the classes, eps outside its range, or a model whose
            output is not logits.
        Diverged: a loss is not finite.

    Example:
        >>> from robustscape.models.linear import Linear
        >>> model = Linear().build(image=(1, 4, 4), classes=3, seed=0)
        >>> x = torch.rand(8, 1, 4, 4)
        >>> evaluate(model, x, model(x).argmax(dim=1), eps=0.1, sanity=0).robust_error.n
        8
    """
    if callable(attacks):
        raise BadInput(f"attacks is one attack, {type(attacks).__name__}; did you mean a list of it?")
    settings = Evaluating(
        suite=suite,
        attacks=tuple(attacks),
        passes=passes,
        norm=norm,
        eps=eps,
        steps=steps,
        restarts=restarts,
        loss_steps=loss_steps,
        loss_restarts=loss_restarts,
        step_size=step_size,
        n=None,
        batch_size=batch_size,
        sanity=sanity,
    )
    looked_at = subject(model, x, y, seed=seed, runtime=runtime, batch=batch_size, classes=classes)
    with threads(looked_at.runtime):
        found = drained(evaluating(settings, looked_at, surrogate=surrogate))
    for finding in found.findings:
        if finding.fired:
            warnings.warn(f"{finding.name}: {finding.evidence}", stacklevel=2)
    return found


def evaluating(
    settings: Evaluating,
    subject: Subject,
    *,
    partial: Path | None = None,
    adversarial: bool = False,
    surrogate: nn.Module | None = None,
) -> Generator[Progress, None, Evaluation]:
    """Evaluate a subject's first n examples, yielding ``Progress`` as they are settled; returns the Evaluation.

    First the search for the largest loss, then the attacks in their order. They run on the fast view. An example counts
    as fooled only if the model itself, in float32, misclassifies exactly the input that was returned and that input
    lies in ball and box; see ``searching``. A model that returns NaN is an error, never fooled. Random numbers belong
    to (seed, search, restart or target, example), so the flags do not depend on the batch size or on the other
    examples. Ranks share the examples, and all return the Evaluation of the whole. A model that is random on purpose
    draws from torch's generators, which begin with the seed: the numbers that it draws depend on the company, so one
    that was interrupted comes to the same only within its noise.

    Args:
        settings: The attacks, and how many examples.
        subject: The model and the examples.
        partial: File that what is known is kept in, every half minute: a killed evaluation goes on from there if
            settings, model, examples, versions and threads are the same, and begins anew if not. It stays when the
            Result is made: remove it once the Result is saved. Of several ranks each has its own.
        adversarial: Whether ``Evaluation.x_adv`` is to hold the inputs that fooled the model.
        surrogate: Another model, see ``sanity``; None for none.

    Raises:
        BadInput: a surrogate that is for other images or classes, or that no sanity check would try.
        Diverged: a loss is not finite.
    """
    some = _first(subject, settings)
    if surrogate is not None:
        if not settings.sanity:
            raise BadInput("a surrogate is tried by the sanity checks, and sanity=0 leaves them out; did you mean 128?")
        check_surrogate(surrogate, some)
    kept = _Kept(partial, _judged_by(some, settings), settings, adversarial=adversarial)
    work = _evaluating(settings, some, kept, adversarial=adversarial, surrogate=surrogate)
    return (yield from on_own_draws(work, subject.seed, subject.x.device))


def _evaluating(
    settings: Evaluating, some: Subject, kept: _Kept, *, adversarial: bool, surrogate: nn.Module | None
) -> Generator[Progress, None, Evaluation]:
    took = stopwatch()
    subject = _judged_by(some, settings)
    mine = torch.arange(len(subject.x), device=subject.x.device)[share(len(subject.x))]
    known, n = standing(subject, mine, keep=adversarial), len(mine)
    jobs = list(jobs_of(settings))
    sizes = [n, *(n * budget(job.attack, known.logits.shape[1]) for job in jobs)]
    known, found, before = kept.read(known)
    yield Progress(sum(sizes[: 1 + len(known.notes)]), sum(sizes), _words(known, mine))
    for place, job in enumerate(jobs):
        if place < len(known.notes):
            continue
        found = found or tally(subject, keep=adversarial)
        rows = rows_of(job, known, mine)
        for settled in searching(subject, job.attack, rows, known.logits, found, *job.tags):
            kept.write(known, found, before + took(), now=False)
            done = sum(sizes[: 1 + place]) + sizes[1 + place] * settled // max(len(rows), 1)
            yield Progress(done, sum(sizes), f"{job.name}, {_words(known, mine, found)}")
        flips = known.take(rows, found)
        known.notes.append(note_of(job, known, mine, rows, found, flips))
        found = None
        kept.write(known, None, before + took(), now=True)
        yield Progress(sum(sizes[: 2 + place]), sum(sizes), _words(known, mine))
    known.join()
    findings = from_first(_findings(settings, some, known, jobs, surrogate) if is_first() else None) or ()
    return replace(_result(settings, subject, known, before + took()), findings=findings)


def _judged_by(subject: Subject, settings: Evaluating) -> Subject:
    """Return the subject judged by the mean of several passes, where that is asked for; searched as it was."""
    passes = settings.judging_passes()
    return subject if passes == 1 else replace(subject, model=MeanLogits(subject.model, passes, subject.seed))


def _findings(
    settings: Evaluating, subject: Subject, known: Standing, jobs: Sequence[Job], surrogate: nn.Module | None
) -> tuple[Finding, ...]:
    """Look for reasons not to believe the numbers."""
    if not settings.sanity:
        return ()

    def by(*kinds: type, others: bool = False) -> Tensor:
        chosen = torch.tensor([isinstance(job.attack, kinds) != others for job in jobs] + [False])
        return chosen.to(known.first.device)[known.first.clamp(min=-1)]

    return sanity(
        subject,
        settings.threat(),
        n=settings.sanity,
        fooled=known.fooled,
        followed=known.clean_wrong | by(FGSM, Noise, Square, SPSA, Stored, others=True),
        searched=by(Square, SPSA),
        surrogate=surrogate,
    )


class Progress(NamedTuple):
    """How far an evaluation is, in no unit, and what is known so far, in words."""

    done: int
    total: int
    words: str


def _words(known: Standing, mine: Tensor, found: Tally | None = None) -> str:
    """Return the robust accuracy so far in words."""
    fooled = known.fooled if found is None else known.fooled | found.wrong
    return f"robust accuracy so far {1 - float(fooled[mine].double().mean()):.1%}"


class _Kept:
    """The file that what is known is kept in, if there is one."""

    def __init__(self, path: Path | None, subject: Subject, settings: Evaluating, *, adversarial: bool) -> None:
        name = f"{rank()}-of-{world()}"
        self.path = None if path is None else path.with_name(f"{path.name}.{name}" if world() > 1 else path.name)
        self.subject, self.adversarial, self.last = subject, adversarial, time.monotonic()
        attacks = [[job.name, *job.tags, to_plain(job.attack)] for job in jobs_of(settings)]
        passes = settings.judging_passes()
        self.fingerprint = "" if path is None else fingerprint(subject, attacks, passes, adversarial, name)

    def read(self, known: Standing) -> tuple[Standing, Tally | None, float]:
        """Return what was known when it was last written."""
        if self.path is None:
            return known, None, 0.0
        return read_standing(self.path, self.fingerprint, known, tally(self.subject, keep=self.adversarial))

    def write(self, known: Standing, found: Tally | None, seconds: float, *, now: bool) -> None:
        """Write what is known, now or where the last time is half a minute ago."""
        if self.path is not None and (now or time.monotonic() - self.last > _KEEP_EVERY):
            keep_standing(self.path, self.fingerprint, known, found, seconds)
            self.last = time.monotonic()


def _first(subject: Subject, settings: Evaluating) -> Subject:
    """Return the subject's first n examples, in batches of the settings' size."""
    n = min(settings.n or len(subject.x), len(subject.x))
    some = {name: getattr(subject, name)[:n] for name in ("x", "y", "index")}
    data = subject.data_name if n == len(subject.x) else f"{subject.data_name}, first {n}"
    first = replace(subject, **some, data_name=data)
    return first if settings.batch_size == subject.batch else in_batches(first, settings.batch_size)


def _result(settings: Evaluating, subject: Subject, known: Standing, seconds: float) -> Evaluation:
    clean_loss, loss = (t.double().cpu().numpy() for t in (known.clean_loss, known.loss))
    clean_wrong, fooled = (t.cpu().numpy() for t in (known.clean_wrong, known.fooled))
    y, n, seed = subject.y.cpu().numpy(), len(subject.x), subject.seed
    sizes = np.bincount(y, minlength=len(subject.classes))

    def part(chosen: np.ndarray) -> Number | None:
        return bootstrap_mean(loss[chosen], seed) if chosen.any() else None

    def per_class(wrong: np.ndarray) -> np.ndarray:
        counts = np.bincount(y, weights=wrong, minlength=len(subject.classes))
        return np.where(sizes > 0, counts / np.maximum(sizes, 1), np.nan)

    return Evaluation(
        clean_error=wilson(int(clean_wrong.sum()), n),
        robust_error=wilson(int(fooled.sum()), n),
        clean_loss=bootstrap_mean(clean_loss, seed),
        robust_loss=bootstrap_mean(loss, seed),
        robust_loss_correct=part(~clean_wrong),
        robust_loss_incorrect=part(clean_wrong),
        classes=subject.classes,
        class_clean_error=per_class(clean_wrong),
        class_robust_error=per_class(fooled),
        class_n=sizes,
        norm=settings.norm,
        eps=settings.eps,
        attack=settings.words(),
        split=subject.split,
        fooled=fooled,
        index=subject.index.cpu().numpy(),
        losses=loss,
        provenance=provenance(
            seconds=seconds,
            device=subject.x.device,
            precision=precision(subject),
            seed=seed,
            model=subject.model_name,
            data=subject.data_name,
            settings=settings,
        ),
        suite="" if settings.attacks else settings.suite,
        searches=searches(known.notes, n),
        first=known.first.cpu().numpy(),
        steps=known.steps.cpu().numpy(),
        x_adv=None if known.x_adv is None else known.x_adv.cpu().numpy(),
    )
