"""APGD: projected gradient descent that chooses its own step size, on cross-entropy, DLR or targeted DLR."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustscape.attacks import _apgd, _apgd_l1
from robustscape.attacks._common import gradient, told
from robustscape.attacks.losses import DLR, Aimed, CrossEntropy, TargetedDLR, margin, runner_up
from robustscape.attacks.queue import attacked
from robustscape.attacks.threat import ThreatModel, per_example
from robustscape.attacks.walk import Draws, Rows, State, chosen, draw_number, draws
from robustscape.streams import Streams
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class APGD:
    """Auto-PGD (Croce and Hein 2020, https://arxiv.org/abs/2003.01690, Algorithm 1), as AutoAttack runs it.

    A step along the gradient of length 2 eps at first, mixed with the last move (0.75 and 0.25); at fixed iterations
    it is halved where it has not helped, and the search goes on from the best point. Under l1 (Croce and Hein 2021,
    https://arxiv.org/abs/2103.01208) steps are sparse and the radius falls from 3 eps over 2 eps to eps. A round, of
    one start or one target, takes ``eot`` times steps + 1 forward and backward passes (steps + 3 under l1), in eval
    mode, and ends at the first success.

    Attributes:
        threat: Ball and box that the inputs stay in.
        steps: Steps of a round, at least 1, under l1 at least 3.
        restarts: Random starts, of each target where there are several, at least 1.
        loss: What is raised, (model, x_adv, target) to a loss per example: ``CrossEntropy``, ``DLR``, ``TargetedDLR``,
            ``Margin``, or any other whose target are labels.
        targets: With ``TargetedDLR``, how many classes are tried in turn, from the likeliest wrong one of the clean
            input on; at most all but the label are. Whatever misclassifies counts.
        rho: The step is halved if at most this share of the steps raised the loss, in (0, 1).
        eot: Passes that each gradient is the mean of, for models that are random on purpose (expectation over
            transformation); success is then judged by the mean logits. At least 1.
        targeted: Whether y are wanted classes; success is to be classified so. The loss is then lowered;
            ``TargetedDLR`` leads from the class of the clean input to y.

    Deviations:
        From AutoAttack's code: the first misclassified iterate is returned, there the last. The first loss is compared
        with that of the start, there with 0. Several passes are averaged for loss and success also, where the code
        takes the last pass. The gradient under l2 is scaled before it is normalised, so that a tiny one counts. Under
        l1 a step changes at least one pixel that is not at the edge of the box, where the code may stall.
        From the paper: a step is also halved where exactly a share of ``rho`` of the steps raised the loss, as in
        the code. With few classes the losses become differences of logits, see ``note``.
    """

    threat: ThreatModel = field(default_factory=ThreatModel)
    steps: int = 100
    restarts: int = 1
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor] = field(default_factory=CrossEntropy)
    targets: int = 9
    rho: float = 0.75
    eot: int = 1
    targeted: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        least = 3 if self.threat.norm == "l1" else 1
        if self.steps < least or self.restarts < 1:
            raise BadInput(
                f"APGD needs at least {least} steps under {self.threat.norm} and 1 restart, not {self.steps} and "
                f"{self.restarts}"
            )
        if self.targets < 1 or self.eot < 1:
            raise BadInput(f"APGD needs at least 1 target and 1 pass (eot), not {self.targets} and {self.eot}")
        if not 0 < self.rho < 1:
            meant = f"; did you mean {self.rho / 100:g}?" if 1 < self.rho < 100 else ""
            raise BadInput(f"rho is a share of the steps, in (0, 1), not {self.rho:g}{meant}")
        if isinstance(self.loss, Aimed) and not isinstance(self.loss, TargetedDLR):
            raise BadInput(
                f"APGD raises losses of labels, and {type(self.loss).__name__} does not look at them; "
                "did you mean CrossEntropy, DLR or TargetedDLR?"
            )
        if self.targeted and isinstance(self.loss, DLR):
            raise BadInput(
                "targeted=True with DLR would as soon raise the third logit as y's; did you mean TargetedDLR?"
            )

    def at(self, eps: float) -> APGD:
        """Return the same attack at another eps; its steps follow it."""
        return replace(self, threat=replace(self.threat, eps=eps))

    def describe(self) -> str:
        """Return the attack in words, for captions: "APGD-CE (linf 8/255, 100 steps, 1 restart)"."""
        short = {CrossEntropy: "CE", DLR: "DLR", TargetedDLR: "T"}.get(type(self.loss), type(self.loss).__name__)
        several = f", up to {self.targets} targets" if self._several() else ""
        restarts = f"{self.restarts} restart" + "s" * (self.restarts > 1)
        passes = f", {self.eot} passes a step" if self.eot > 1 else ""
        name = f"{'targeted ' * self.targeted}APGD-{short}"
        return f"{name} ({told(self.threat)}, {self.steps} steps{several}, {restarts}{passes})"

    def note(self, classes: int) -> str:
        """Return what the loss becomes for so few classes, one sentence; "" where it is as it is."""
        return self.loss.note(classes) if isinstance(self.loss, DLR | TargetedDLR) else ""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Streams | None = None, eps: Tensor | None = None
    ) -> Tensor:
        """Return adversarial inputs; warns where the loss is another for so few classes.

        Args:
            model: Pixels in [0, 1] to logits; run in eval mode, left without a trace.
            x: (N, C, H, W), float32 or float64 in [0, 1].
            y: (N,), labels; the wanted classes where ``targeted``.
            rng: Random numbers of the starts; by default seed 0, examples numbered in order.
            eps: (N,), radius of each example in pixel units; by default the threat model's.

        Returns:
            x_adv, (N, C, H, W), of x's dtype: the first success, else the iterate of largest loss; x itself where the
            model is wrong already.

        Raises:
            BadInput: half-precision inputs, soft labels, labels or radii that do not fit.
            Diverged: the model gave NaN.
        """
        wide = _Wide(model)
        x_adv = attacked(self, wide, x, y, rng, eps, targeted=self.targeted)
        if text := self.note(wide.classes):
            warnings.warn(text, stacklevel=2)
        return x_adv

    def rounds(self, classes: int) -> int:
        """Return the number of restarts, of all targets where there are several."""
        return self.restarts * (min(self.targets, classes - 1) if self._several() else 1)

    def begin(self, rows: Rows, rng: Draws) -> State:
        """Return the state of examples at the starts of their rounds."""
        x_0, no = self._start(rows, rng), torch.zeros_like(rows.y, dtype=torch.bool)
        zero, least = torch.zeros_like(rows.eps), torch.full_like(rows.eps, -torch.inf)
        state = {
            **{name: getattr(rows, name) for name in ("x", "y", "eps", "index", "round")},
            "step": torch.zeros_like(rows.y),
            **{"x_adv": rows.x, "wrong": no, "score": least, "over": no, "finite": ~no, "dull": no},
            "aim": self._aim(rows),
            **{"here": x_0, "old": x_0},
            **{"best": x_0, "best_loss": zero, "best_slope": torch.zeros_like(x_0), "best_score": least},
        }
        if self.threat.norm == "l1":
            return state | _apgd_l1.begun(state)
        return state | _apgd.begun(state, self.steps) | (_apgd.ends(state) if self.threat.norm == "linf" else {})

    def step(self, model: nn.Module, state: State, rng: Draws) -> State:
        """Return the state after a look at where each example is, and a step from there."""
        reference, sparse = isinstance(rng, torch.Generator), self.threat.norm == "l1"
        loss, logits, slope = self._look(model, state, reference=reference)
        state = state | self._noted(state, loss, logits, slope, reference=reference)
        if sparse:
            rule, back = _apgd_l1.ruled(state, self.steps)
        else:
            rule, back = _apgd.ruled(state, loss, self.steps, self.rho, reference=reference)
        slope = chosen(back, state["best_slope"], slope)
        state = state | rule | {"here": chosen(back, state["best"], state["here"])}
        if sparse:
            after = _apgd_l1.moved(state, slope, self.steps, reference=reference)
        else:
            after = {"here": _apgd.moved(self.threat, state, slope, reference=reference)}
        step = state["step"] + 1
        passes = _apgd_l1.passes(self.steps) if sparse else self.steps + 1
        return state | after | {"old": state["here"], "step": step, "over": step >= passes}

    def _several(self) -> bool:
        return isinstance(self.loss, TargetedDLR) and not self.targeted

    def _start(self, rows: Rows, rng: Draws) -> Tensor:
        """Return a point of the ball's edge: a uniform (linf) or normal direction as long as eps, then clamped."""
        x, flat, reference = rows.x, self.threat.norm == "linf", isinstance(rng, torch.Generator)
        shape = tuple(x.shape[1:])
        if isinstance(rng, torch.Generator):
            noise = 2 * torch.rand(x.shape, generator=rng) - 1 if flat else torch.randn(x.shape, generator=rng)
        else:
            number = draw_number(rows.round, self.restarts, self.rounds(rows.logits.shape[1]) // self.restarts)
            own = draws(rng, replace(rows, round=number)).tag("apgd")
            noise = own.uniform(*shape, low=-1, high=1, dtype=x.dtype) if flat else own.normal(*shape, dtype=x.dtype)
        noise = noise.to(x)
        if self.threat.norm != "l1":
            return (x + per_example(rows.eps, x) * _apgd.unit(noise, self.threat.norm)).clamp(0, 1)
        if isinstance(rng, torch.Generator):
            for _ in range(3):  # drawn by the reference at the start of each phase, and not used
                torch.randn(x.shape, generator=rng)
        return _apgd_l1.onto(x + noise, x, _apgd_l1.largest(rows.eps), reference=reference)

    def _aim(self, rows: Rows) -> Tensor:
        """Return the target of the loss."""
        if not isinstance(self.loss, TargetedDLR):
            return rows.y
        if self.targeted:
            return torch.stack([rows.logits.argmax(dim=1), rows.y], dim=1)
        return torch.stack([rows.y, runner_up(rows.logits, rows.y, rows.round // self.restarts)], dim=1)

    def _look(self, model: nn.Module, state: State, *, reference: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return loss (N,), logits (N, K) and slope (N, ...) where each example is: means over the passes."""
        wide = _Wide(model)
        looks = [gradient(wide, self._raised(reference), state["here"], state["aim"]) for _ in range(self.eot)]
        loss, logits, slope = (_mean(values) for values in zip(*looks, strict=True))
        return (*looks[-1][:2], slope) if reference else (loss, logits, slope)

    def _raised(self, reference: bool) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
        if reference and isinstance(self.loss, CrossEntropy):
            return lambda model, x_adv, target: F.cross_entropy(model(x_adv), target, reduction="none")
        if self.targeted and not isinstance(self.loss, TargetedDLR):
            return lambda model, x_adv, target: -self.loss(model, x_adv, target)
        return self.loss

    def _noted(self, state: State, loss: Tensor, logits: Tensor, slope: Tensor, *, reference: bool) -> State:
        """Return what a look adds to what is known: the largest loss, success, health."""
        here, l1 = state["here"], self.threat.norm == "l1"
        better = (loss > state["best_loss"]) | (state["turn" if l1 else "step"] == 0)
        counts = state["phase"] == 2 if l1 else torch.ones_like(better)  # the radius is eps, not more
        right = logits.argmax(dim=1) == state["y"]
        hit = counts & (right if self.targeted else ~right)
        ahead = margin(logits, state["y"])
        score = -ahead if self.targeted else ahead
        best = chosen(better, here, state["best"])
        best_score = torch.where(better, score, state["best_score"])
        kept = state["wrong"] & ~hit if reference else state["wrong"]
        found, fresh = chosen(hit, here, best), counts & ~kept
        steepest, highest = slope.flatten(1).abs().amax(dim=1), logits.topk(2, dim=1).values
        return {
            "best": best,
            "best_loss": torch.where(better, loss, state["best_loss"]),
            "best_slope": chosen(better, slope, state["best_slope"]),
            "best_score": best_score,
            "x_adv": chosen(fresh, found, state["x_adv"]),
            "score": torch.where(fresh, torch.where(hit, score, best_score), state["score"]),
            "wrong": state["wrong"] | hit,
            "finite": state["finite"] & torch.isfinite(loss) & torch.isfinite(steepest),
            "dull": state["dull"] | (steepest == 0) | (highest[:, 0] == highest[:, 1]),
        }


def _mean(values: tuple[Tensor, ...]) -> Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total / len(values)


class _Wide(nn.Module):
    """The model, its logits of the inputs' dtype; remembers how many classes there are."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.classes = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of x, (N, K)."""
        logits = self.model(x).to(x.dtype)
        self.classes = logits.shape[-1]
        return logits
