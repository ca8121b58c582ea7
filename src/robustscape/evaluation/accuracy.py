"""Clean and robust accuracy and loss of any model, counted only where confirmed by the model itself.

``evaluate(model, x, y, eps=8/255)`` is the whole of it for most; ``evaluating`` is the same as a generator that
tells how far it is.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.intervals import bootstrap_mean, wilson
from robustscape.evaluation.result import Evaluation, Number
from robustscape.evaluation.subject import batches, drained, in_batches, judge, precision, predicted, search, subject
from robustscape.results import provenance, stopwatch
from robustscape.runtime import Runtime, threads
from robustscape.runtime.ranks import share, sum_over_ranks
from robustscape.types import BadInput, Subject


@dataclass(frozen=True, kw_only=True)
class Evaluating:
    """The attacks and examples that judge a model.

    Two searches, each with its own restarts: PGD for the largest loss on every example, then PGD for a
    misclassified input on those that are still classified correctly. Loss and error are the worst over the clean
    input and everything that both found.

    Attributes:
        norm: Norm of the threat model, "linf" or "l2".
        eps: Its radius in pixel units: 8/255, not 8.
        steps: Steps of the search for a misclassified input.
        restarts: Its random starts; 0 leaves it out.
        loss_steps: Steps of the search for the largest loss.
        loss_restarts: Its random starts; 0 leaves it out.
        step_size: Length of a step of both in pixel units; None for eps / 4.
        n: Examples, the first of each split; None for all.
        batch_size: Examples per forward.
        splits: Which splits are evaluated: "test", "train", "validation".
    """

    norm: Literal["linf", "l2"] = "linf"
    eps: float = 8 / 255
    steps: int = 50
    restarts: int = 2
    loss_steps: int = 20
    loss_restarts: int = 2
    step_size: float | None = None
    n: int | None = 1000
    batch_size: int = 250
    splits: tuple[Literal["test", "train", "validation"], ...] = ("test", "train")

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name in ("restarts", "loss_restarts"):
            if getattr(self, name) < 0:
                raise BadInput(f"{name} must be at least 0, not {getattr(self, name)}")
        if self.n is not None and self.n < 1:
            raise BadInput(f"n must be at least 1, not {self.n}; did you mean None, for all examples?")
        if self.batch_size < 1:
            raise BadInput(f"batch_size must be at least 1, not {self.batch_size}")
        self.error_attack()
        self.loss_attack()

    def threat(self) -> ThreatModel:
        """Return the threat model."""
        return ThreatModel(norm=self.norm, eps=self.eps)

    def error_attack(self) -> PGD:
        """Return one start of the search for a misclassified input."""
        return PGD(threat=self.threat(), steps=self.steps, step_size=self.step_size, result="misclassified")

    def loss_attack(self) -> PGD:
        """Return one start of the search for the largest loss."""
        return PGD(threat=self.threat(), steps=self.loss_steps, step_size=self.step_size, result="best_loss")

    def words(self) -> str:
        """Return both searches in words, for captions."""
        loss, error = self.loss_attack(), self.error_attack()
        parts = []
        if self.loss_restarts:
            parts.append(f"{replace(loss, restarts=self.loss_restarts).describe()} for loss")
        if self.restarts:
            parts.append(f"{replace(error, restarts=self.restarts).describe()} for error")
        return ", ".join(parts) or "none"


def evaluate(
    model: nn.Module,
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    *,
    eps: float = 8 / 255,
    norm: Literal["linf", "l2"] = "linf",
    steps: int = 50,
    restarts: int = 2,
    loss_steps: int = 20,
    loss_restarts: int = 2,
    step_size: float | None = None,
    batch_size: int = 250,
    seed: int = 0,
    runtime: Runtime | None = None,
    classes: Sequence[str] = (),
) -> Evaluation:
    """Return clean and robust error and loss of a model on the examples given, with 95 % intervals.

    Args:
        model: Maps pixels in [0, 1] to logits, any mode; left without a trace.
        x: (N, C, H, W), floats in [0, 1].
        y: (N,), integer labels.
        eps: Radius of the threat model in pixel units: 8/255, not 8.
        norm: Its norm, "linf" or "l2".
        steps: Steps of the search for a misclassified input.
        restarts: Its random starts.
        loss_steps: Steps of the search for the largest loss.
        loss_restarts: Its random starts.
        step_size: Length of a step of both, in pixel units; None for eps / 4.
        batch_size: Examples per forward.
        seed: Seed of all random numbers.
        runtime: Arithmetic of the search; by default the fastest that is known to be right.
        classes: Class names; by default their numbers.

    Returns:
        See ``Evaluation``. What counts and how it is searched: ``evaluating``.

    Raises:
        BadInput: images outside [0, 1], labels outside the classes, eps outside its range, or a model whose
            output is not logits.
        Diverged: a loss is not finite.

    Example:
        >>> from robustscape.models.linear import Linear
        >>> model = Linear().build(image=(1, 4, 4), classes=3, seed=0)
        >>> evaluate(model, torch.rand(8, 1, 4, 4), torch.zeros(8, dtype=torch.int64), eps=0.1).robust_error.n
        8
    """
    settings = Evaluating(
        norm=norm,
        eps=eps,
        steps=steps,
        restarts=restarts,
        loss_steps=loss_steps,
        loss_restarts=loss_restarts,
        step_size=step_size,
        n=None,
        batch_size=batch_size,
    )
    looked_at = subject(model, x, y, seed=seed, runtime=runtime, batch=batch_size, classes=classes)
    with threads(looked_at.runtime):
        return drained(evaluating(settings, looked_at))


def evaluating(settings: Evaluating, subject: Subject) -> Generator[tuple[int, int], None, Evaluation]:
    """Evaluate a subject's first n examples, yielding (done, total) after every batch; returns the Evaluation.

    The searches run on the fast view. An example counts as fooled only if the model itself, in float32,
    misclassifies exactly the input that was returned and that input lies in ball and box; where the search
    claims what float32 does not confirm, the search is made once more on the model itself. A model that
    returns NaN is an error, never fooled. Random numbers belong to (seed, search, restart, example), so the
    flags do not depend on the batch size or on the other examples. Ranks share the examples, and all return the
    Evaluation of the whole.

    Raises:
        Diverged: a loss is not finite.
    """
    seconds = stopwatch()
    subject = _first(subject, settings)
    state = _State(subject)
    everything = torch.arange(len(subject.x), device=subject.x.device)[share(len(subject.x))]
    n = len(everything)
    total = n * (1 + settings.loss_restarts + settings.restarts)
    done = 0
    for rows, count in batches(subject, everything):
        state.clean(rows[:count], *judge(subject.model, subject.x[rows], subject.y[rows], parts=subject.parts))
        done += count
        yield done, total
    for restart in range(settings.loss_restarts):
        for rows, count in batches(subject, everything):
            state.attack(settings.loss_attack(), rows, count, "loss", restart)
            done += count
            yield done, total
    for restart in range(settings.restarts):
        for rows, count in batches(subject, everything[~state.fooled[everything]]):
            state.attack(settings.error_attack(), rows, count, "error", restart)
            done += count
            yield done, total
        done = n * (1 + settings.loss_restarts + restart + 1)
        yield done, total
    again = settings.error_attack() if settings.restarts else settings.loss_attack()
    for rows, count in batches(subject, everything[(state.doubtful & ~state.fooled)[everything]]):
        state.attack(again, rows, count, "confirm", 0, on_model=True)
        yield done, total
    state.join()
    return _result(settings, subject, state, seconds())


class _State:
    """What is known about each example so far, (n,) each."""

    def __init__(self, subject: Subject) -> None:
        n, device = len(subject.x), subject.x.device
        self.subject = subject
        self.clean_loss = torch.zeros(n, dtype=subject.x.dtype, device=device)
        self.clean_wrong = torch.zeros(n, dtype=torch.bool, device=device)
        self.loss = self.clean_loss.clone()
        self.fooled = self.clean_wrong.clone()
        self.doubtful = self.clean_wrong.clone()  # the search claims what the model did not confirm

    def clean(self, rows: Tensor, loss: Tensor, wrong: Tensor) -> None:
        """Note what the model makes of the clean inputs of ``rows``; surplus entries are padding."""
        self.clean_loss[rows] = self.loss[rows] = loss[: len(rows)]
        self.clean_wrong[rows] = self.fooled[rows] = wrong[: len(rows)]

    def attack(
        self, attack: PGD, rows: Tensor, count: int, purpose: str, restart: int, *, on_model: bool = False
    ) -> None:
        """Attack ``rows`` once, the first ``count`` of them meant, and note what is worse than before."""
        subject, kept = self.subject, rows[:count]
        tags = ("evaluate", purpose, restart)
        if on_model:
            found = search(subject, subject.model, attack, rows, *tags)
        else:
            with subject.view as searched:
                found = search(subject, searched, attack, rows, *tags)
                claimed = predicted(searched, found.x_adv, subject.parts).argmax(dim=1) != subject.y[rows]
            self.doubtful[kept] |= (claimed & ~found.wrong)[:count]
        self.loss[kept] = torch.maximum(self.loss[kept], found.loss[:count])
        self.fooled[kept] |= found.wrong[:count]

    def join(self) -> None:
        """Take in what the other ranks know of their examples: what a rank knows nothing of is 0 there."""
        self.clean_loss, self.loss = sum_over_ranks(torch.stack([self.clean_loss, self.loss]))
        self.clean_wrong, self.fooled = sum_over_ranks(torch.stack([self.clean_wrong, self.fooled]).int()).bool()


def _first(subject: Subject, settings: Evaluating) -> Subject:
    """Return the subject's first n examples, in batches of the settings' size."""
    n = min(settings.n or len(subject.x), len(subject.x))
    some = {name: getattr(subject, name)[:n] for name in ("x", "y", "index")}
    data = subject.data_name if n == len(subject.x) else f"{subject.data_name}, first {n}"
    first = replace(subject, **some, data_name=data)
    return first if settings.batch_size == subject.batch else in_batches(first, settings.batch_size)


def _result(settings: Evaluating, subject: Subject, state: _State, seconds: float) -> Evaluation:
    clean_loss, loss = (t.double().cpu().numpy() for t in (state.clean_loss, state.loss))
    clean_wrong, fooled = (t.cpu().numpy() for t in (state.clean_wrong, state.fooled))
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
    )
