"""FAB: the nearest misclassified input, looked for along linearised decision boundaries."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from robustscape.attacks import _projections_reference
from robustscape.attacks._common import told
from robustscape.attacks._fab import Pair, health, judged, seen, started, tangent, tangent_as_code, wide, worthwhile
from robustscape.attacks._projections import length, onto_hyperplane
from robustscape.attacks.queue import attacked
from robustscape.attacks.threat import ThreatModel
from robustscape.attacks.walk import Draws, Rows, State, chosen
from robustscape.streams import Streams
from robustscape.types import BadInput

_SHORT = 1 - 1e-5  # of eps: how far moving back to the ball's surface goes, so that rounding leaves it inside


@dataclass(frozen=True, kw_only=True)
class FAB:
    """Fast adaptive boundary attack (Croce and Hein 2020, https://arxiv.org/abs/1907.02044, Algorithm 1).

    Each iteration linearises a difference of logits d at the point x_1, with w its gradient, and moves

        x_1 <- box((1 - a) (x_1 + eta delta_1) + a (x + eta delta_2)),   a = min(|delta_1| / (|delta_1| + |delta_2|),
        alpha_max),

    delta_1 and delta_2 the shortest ways, within the box, from x_1 and from the clean x to where d + <w, . - x_1> = 0.
    From a misclassified point it goes back, x_1 <- x + beta (x_1 - x). It needs no step size, and only the ball decides
    what counts.

    One step is one forward, which tells the class of the point that the last move led to, and in all but untargeted
    FAB one backward, which linearises there. A round takes ``steps`` + 1 of them, one more for each time that it goes
    back, and one for the ball's surface where all misclassified points were outside: at most 2 ``steps`` + 1. Where
    most of a batch is to go back, none of it is linearised, and those that could have been wait for the next forward.

    Attributes:
        threat: Ball and box that the result stays in; the points of the search stay in the box alone.
        steps: Iterations of one round, at least 1.
        restarts: Independent starts for each target, at least 1: x itself, then points at half of eps from it.
        targets: FAB-T: how many classes are gone for in turn, those of the next largest clean logits, at most all
            others. None for untargeted FAB: every iteration goes for the nearest of all linearised boundaries, which
            takes a backward for each other class.
        alpha_max: Largest weight of the way from the clean input, in [0, 1].
        eta: How far a move goes, as a multiple of the way to the boundary, at least 1.
        beta: Where a misclassified point goes back to, as a share of its distance, in (0, 1].
        targeted: Whether y are wanted classes: success is then to be classified so, and d is the wanted logit minus
            the largest other one. ``targets`` is not looked at.
        minimum: Whether to look for the nearest misclassified input within eps through all steps of all targets and
            restarts, instead of ending at the first one. With the largest eps that is FAB as published.

    Deviations:
        From the paper and the authors' code (AutoAttack): a search for a fixed eps ends at the first misclassified
        point within eps. Points moved back are looked at too, and so is, last of all, the nearest misclassified point
        moved onto the ball's surface, where it was outside. From the code alone: entries of the gradient below 1e-8
        count.
    """

    threat: ThreatModel = field(default_factory=ThreatModel)
    steps: int = 100
    restarts: int = 1
    targets: int | None = 9
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    targeted: bool = False
    minimum: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if self.steps < 1 or self.restarts < 1:
            raise BadInput(f"FAB needs at least 1 step and 1 restart, not {self.steps} and {self.restarts}")
        if self.targets is not None and self.targets < 1:
            raise BadInput(f"targets={self.targets} leaves FAB no class to go for; did you mean None, all at once?")
        if not 0 <= self.alpha_max <= 1:
            raise BadInput(f"alpha_max={self.alpha_max:g} is outside [0, 1]: it is a weight; the paper's is 0.1")
        if not self.eta >= 1:
            raise BadInput(f"eta={self.eta:g} stops short of the boundary; did you mean {2 - self.eta:g}?")
        if not 0 < self.beta <= 1:
            raise BadInput(f"beta={self.beta:g} is outside (0, 1]: it is a share of the distance; the paper's is 0.9")

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Streams | None = None, eps: Tensor | None = None
    ) -> Tensor:
        """Return adversarial inputs.

        Args:
            model: Pixels in [0, 1] to logits; run in eval mode, left without a trace.
            x: (N, C, H, W), float32 or float64 in [0, 1].
            y: (N,) labels; the wanted classes where ``targeted``.
            rng: Random numbers of the restarts; by default seed 0, examples numbered in order.
            eps: Radius of each example, (N,), in pixel units; by default the threat model's.

        Returns:
            x_adv, (N, C, H, W), of x's dtype: a misclassified input within eps, with ``minimum`` the nearest that was
            found; where none was found, the point within eps that came nearest to being one.

        Raises:
            BadInput: half-precision inputs, labels, radii or models that do not fit.
            Diverged: the model gave NaN.
        """
        return attacked(self, model, x, y, rng, eps, targeted=self.targeted)

    def at(self, eps: float) -> FAB:
        """Return the same attack at another eps."""
        return replace(self, threat=replace(self.threat, eps=eps))

    def describe(self) -> str:
        """Return the attack in words, for captions: "FAB-100 (linf 8/255, up to 9 targets, 1 restart)"."""
        aim = "targeted" if self.targeted else "untargeted"
        if self.targets is not None and not self.targeted:
            aim = f"up to {self.targets} targets" if self.targets > 1 else "1 target"
        restarts = f"{self.restarts} restart" + "s" * (self.restarts > 1)
        return f"FAB-{self.steps} ({told(self.threat)}, {aim}, {restarts}{', least norm' * self.minimum})"

    def rounds(self, classes: int) -> int:
        """Return how many targets times restarts there are; 1 with ``minimum``, where one state goes through all.

        Raises:
            BadInput: fewer than two classes.
        """
        if classes < 2:
            raise BadInput(f"FAB needs a model of at least 2 outputs, not {classes}: there is no other class to go for")
        return 1 if self.minimum else self.restarts * self._columns(classes)

    def _columns(self, classes: int) -> int:
        return 1 if self.targeted or self.targets is None else min(self.targets, classes - 1)

    def begin(self, rows: Rows, rng: Draws) -> State:
        """Return the state of examples before their first step.

        Beyond what every state has: ``at`` (N, C, H, W), where it is; ``fresh``, whether a move begins there whatever
        its class; ``moves``, iterations so far; ``part``, which target and restart; ``ranked`` (N, targets), the
        classes to go for; ``nearest`` (N, C, H, W), the misclassified point nearest to x so far; ``least``, how far.

        Raises:
            BadInput: ``minimum`` in reference mode, which has no such thing.
        """
        if self.minimum and isinstance(rng, torch.Generator):
            raise BadInput("the reference has no FAB with minimum=True; give streams, or minimum=False")
        zero, no = torch.zeros_like(rows.y), torch.zeros_like(rows.y, dtype=torch.bool)
        far = torch.full_like(rows.eps, torch.inf)
        others = rows.logits.scatter(1, rows.y[:, None], torch.inf).argsort(dim=1, descending=True, stable=True)[:, 1:]
        state = {
            "x": rows.x, "y": rows.y, "eps": rows.eps, "index": rows.index, "round": rows.round, "step": zero,
            "x_adv": rows.x, "wrong": no, "score": -far, "over": no, "finite": ~no, "dull": no,
            "fresh": ~no, "moves": zero, "part": zero if self.minimum else rows.round,
            "nearest": rows.x, "least": far,
            "ranked": others[:, : self._columns(rows.logits.shape[1])],
        }  # fmt: skip
        return state | {"at": self._start(state, rng)}

    def _start(self, state: State, rng: Draws) -> Tensor:
        """Return where a part begins, (N, C, H, W): at x, in restarts at half a radius from it."""
        again = state["part"] % self.restarts > 0
        if self.restarts == 1 or (isinstance(rng, torch.Generator) and not bool(again.any())):
            return state["x"]
        return torch.where(wide(again, state["x"]), started(state, rng, self.threat.norm, self.restarts), state["x"])

    def step(self, model: nn.Module, state: State, rng: Draws) -> State:
        """Return the state after a step: look at the point, then move on, or back where it is misclassified."""
        reference = isinstance(rng, torch.Generator)
        at, z = seen(model, state["at"])
        logits, delta = z.detach(), state["at"] - state["x"]
        fooled, margin = judged(logits, state["y"], targeted=self.targeted)
        size = length(delta, self.threat.norm)
        known = self._noted(state, fooled, margin, size, reference=reference)
        onward, arrived = state["fresh"] | ~fooled, state["moves"] >= self.steps
        left, slope, leads_to = ~(arrived | state["wrong"] | state["over"]), None, state["at"]
        if move := reference or worthwhile(onward & left, left):
            if reference and self.targets is None and not self.targeted and self.threat.norm != "l1":
                gap, slope = tangent_as_code(model, at, z, state["y"], self.threat.norm)
            else:
                gap, slope = tangent(model, at, z, self._pairs(logits, state), self.threat.norm)
            leads_to = self._moved(state, gap, slope, reference=reference)
        waits = torch.zeros_like(onward) if move else onward & ~arrived
        place = {
            "step": state["step"] + ~waits,
            "at": chosen(onward, leads_to, delta.mul_(self.beta).add_(state["x"])),
            "fresh": ~onward | waits,
            "moves": state["moves"] + (arrived | (onward & ~waits)),
        }
        state = state | known | health(state, logits, size, slope, onward & left) | place
        return self._referred(state, arrived) if reference else self._ended(state, arrived, rng)

    def _pairs(self, logits: Tensor, state: State) -> list[Pair]:
        """Return the classes (N,) whose logit is to rise above that of the other ones (N,), one pair or several."""
        y = state["y"]
        if self.targeted:
            return [(y, logits.scatter(1, y[:, None], -torch.inf).argmax(dim=1))]
        if self.targets is None:
            return [(other + (y <= other), y) for other in range(logits.shape[1] - 1)]
        return [(state["ranked"].gather(1, (state["part"] // self.restarts)[:, None]).squeeze(1), y)]

    def _noted(self, state: State, fooled: Tensor, margin: Tensor, size: Tensor, *, reference: bool) -> State:
        """Return what is now known of the best points; nothing changes once the search has ended."""
        going, inside = ~(state["wrong"] | state["over"]), size <= state["eps"]
        closer = going & fooled & (size < state["least"])
        closer = closer & ~state["fresh"] if reference else closer
        found = closer & inside if self.minimum else going & fooled & inside
        better = found | (going & ~fooled & inside & (margin > state["score"]))
        return {
            "nearest": chosen(closer, state["at"], state["nearest"]),
            "least": torch.where(closer, size, state["least"]),
            "x_adv": chosen(better, state["at"], state["x_adv"]),
            "score": torch.where(better, margin, state["score"]),
            "wrong": state["wrong"] if reference or self.minimum else state["wrong"] | found,
        }

    def _moved(self, state: State, gap: Tensor, slope: Tensor, *, reference: bool) -> Tensor:
        """Return where an iteration leads to, (N, C, H, W)."""
        norm, w = self.threat.norm, slope.flatten(1)
        here, clean = state["at"].flatten(1), state["x"].flatten(1)
        if reference and norm != "l1":
            b = (w * here).sum(dim=1) - gap
            delta_1, delta_2 = (_projections_reference.onto_hyperplane(point, w, b, norm) for point in (here, clean))
        else:
            at_clean = gap + (w * (clean - here)).sum(dim=1)
            delta_1, delta_2 = onto_hyperplane(here, w, gap, norm), onto_hyperplane(clean, w, at_clean, norm)
        far_1, far_2 = length(delta_1, norm).clamp(min=1e-8), length(delta_2, norm).clamp(min=1e-8)
        a = (far_1 / (far_1 + far_2)).clamp(max=self.alpha_max)[:, None]
        moved = (here + self.eta * delta_1) * (1 - a) + (clean + self.eta * delta_2) * a
        return moved.clamp(0, 1).view_as(slope)

    def _surface(self, state: State) -> Tensor:
        """Return the nearest misclassified point moved onto the ball's surface, (N, C, H, W)."""
        x, delta, reach = state["x"], state["nearest"] - state["x"], wide(_SHORT * state["eps"], state["x"])
        if self.threat.norm == "linf":  # pixels at their ends stay there
            return x + delta.clamp(-reach, reach)
        return x + delta * (reach / wide(state["least"], x))

    def _ended(self, state: State, arrived: Tensor, rng: Draws) -> State:
        """Return the state with the rounds that have ended over, or, with ``minimum``, at their next part.

        One that has met misclassified points outside the ball alone looks at its surface first.
        """
        beyond = torch.isfinite(state["least"]) & (state["least"] > state["eps"])
        surface = arrived & beyond & (state["moves"] == self.steps + 1)
        done = arrived & ~surface
        at = state["at"]
        if at.device.type != "cpu" or bool(surface.any()):
            at = torch.where(wide(surface, at), self._surface(state), at)
        if not self.minimum:
            return state | {"at": at, "over": state["over"] | done}
        part = state["part"] + done
        over = state["over"] | (part >= self.restarts * state["ranked"].shape[1])
        state = state | {
            "over": over,
            "wrong": state["wrong"] | (over & (state["least"] <= state["eps"])),
            "part": part.masked_fill(over, 0),
            "moves": state["moves"].masked_fill(done, 0),
            "fresh": state["fresh"] | done,
        }
        return state | {"at": chosen(done, self._start(state, rng), at)}

    def _referred(self, state: State, arrived: Tensor) -> State:
        """Return the state with the rounds over that have ended, judged by the nearest point as pyautoattack does."""
        over = state["over"] | arrived
        wrong = over & (state["least"] <= state["eps"])
        x_adv = torch.where(wide(wrong, state["x"]), state["nearest"], state["x"])
        return state | {"over": over, "wrong": wrong, "x_adv": x_adv}
