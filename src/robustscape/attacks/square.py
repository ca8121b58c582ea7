"""Square: random search by windows of constant or bump-shaped changes, which needs no gradient."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustscape.attacks._common import told
from robustscape.attacks._squares import TINY, Plan, gathered, gathered_as_code, masks, placed, plan, tiled, tiling
from robustscape.attacks.losses import margin
from robustscape.attacks.queue import attacked
from robustscape.attacks.threat import ThreatModel
from robustscape.attacks.walk import Draws, Rows, State, chosen, draws
from robustscape.streams import Streams
from robustscape.types import BadInput

_AHEAD = 2  # times as many queries are looked at as are asked: two in five may be known
_CHANNELS = 4  # with more, what was refused would take more memory than the image


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """Queries of N examples.

    Attributes:
        here: (N, M, C, H, W), the inputs.
        new: (N, M), bool; the others fill the batch, their answer is known.
        number: (N, M), int64, how many queries, asked or not, are between the last step and each.
        passed: (N,), int64, how many queries are done where all of these are refused.
        refused: See ``Square.begin``, as it then is.
    """

    here: Tensor
    new: Tensor
    number: Tensor
    passed: Tensor
    refused: Tensor


@dataclass(frozen=True, kw_only=True)
class Square:
    """Square attack (Andriushchenko 2020, https://arxiv.org/abs/1912.00049, algorithms 1 to 3; L1: Croce 2021).

    Every step changes one square window of the best input so far and keeps the change where the margin, the right
    logit minus the largest other one, falls. At most one forward a query, no backward, in eval mode.

    Attributes:
        threat: Ball and box that the inputs stay in; linf, l2 or l1.
        queries: Queries of an example in one restart, the start among them, at least 1: a forward each, but for those
            whose answer is known.
        p: Share of the pixels in the first windows, in (0, 1]; halved again and again.
        restarts: Independent starts, at least 1.
        rescale: Whether the schedule of p, made for 10,000 queries, is compressed to ``queries``; AutoAttack does
            not.
        targeted: Whether y are the wanted classes. The cross-entropy to them is then lowered, as in the paper.

    Deviations:
        From the paper: none known; a window that changes nothing is not drawn again. From AutoAttack's code: each
        example has windows, bumps and signs of its own, where the code shares one window and bump between all
        examples of a batch; windows reach the last row and column, which the code leaves as they began unless a
        window spans the image; the start counts as a query; the bumps of the start fill images of any size, from
        min(H, W) // 5 pixels each. With a generator (see ``attacks.reference``) square images get what the code gives.
    """

    threat: ThreatModel = field(default_factory=ThreatModel)
    queries: int = 5000
    p: float = 0.8
    restarts: int = 1
    rescale: bool = False
    targeted: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if self.queries < 1 or self.restarts < 1:
            raise BadInput(f"Square needs at least 1 query and 1 restart, not {self.queries} and {self.restarts}")
        if not 0 < self.p <= 1:
            meant = f"; did you mean {self.p / 100:g}?" if 1 < self.p <= 100 else ""
            raise BadInput(f"p={self.p:g} is the share of the pixels in a window, in (0, 1]{meant}")

    def at(self, eps: float) -> Square:
        """Return the same attack at another eps."""
        return replace(self, threat=replace(self.threat, eps=eps))

    def describe(self) -> str:
        """Return the attack in words, for captions: "Square (linf 8/255, 5000 queries, 1 restart)"."""
        restarts = f"{self.restarts} restart" + "s" * (self.restarts > 1)
        aim = ", targeted" * self.targeted
        return f"Square ({told(self.threat)}, {self.queries} queries, {restarts}{aim})"

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Streams | None = None, eps: Tensor | None = None
    ) -> Tensor:
        """Return adversarial inputs.

        Args:
            model: Pixels in [0, 1] to logits; run in eval mode, left without a trace.
            x: (N, C, H, W), float32 or float64 in [0, 1].
            y: (N,) labels, int64; the wanted classes of a targeted attack.
            rng: Random numbers; by default seed 0, examples numbered in order.
            eps: Radius of each example, (N,); by default the threat model's own.

        Returns:
            x_adv, (N, C, H, W), of x's dtype: the first success, else the input of least loss that was met.

        Raises:
            BadInput: half-precision inputs, inputs that are no images, soft labels, labels or radii that do not fit.
            Diverged: the model gave NaN.
        """
        return attacked(self, model, x, y, rng, eps, targeted=self.targeted)

    def rounds(self, classes: int) -> int:
        """Return the number of restarts."""
        return self.restarts

    def begin(self, rows: Rows, rng: Draws) -> State:
        """Return the state before the first query: stripes under linf, tiles of bumps under l2 and l1.

        Raises:
            BadInput: inputs that are no images.
        """
        x = rows.x
        if x.ndim != 4:
            raise BadInput(f"Square needs images (N, C, H, W), not inputs of shape {tuple(x.shape)}")
        no = torch.zeros(len(rows), dtype=torch.bool, device=x.device)
        least = torch.full_like(rows.eps, torch.inf)
        stream = draws(rng, rows).index if isinstance(rng, Streams) else rows.index
        assert stream is not None, "streams of examples have an index"
        return {
            "x": x, "y": rows.y, "eps": rows.eps, "index": rows.index, "round": rows.round, "stream": stream,
            "step": torch.zeros_like(rows.round), "x_adv": x, "here": self._start(rows, stream, rng),
            "wrong": no, "over": no, "finite": ~no, "dull": no, "score": -least, "margin": least,
            "refused": self._refused(x),
        }  # fmt: skip

    def _refused(self, x: Tensor) -> Tensor:
        """Return which windows and signs each example has refused since its best input changed, none, (N, M), uint8."""
        channels, height, width = x.shape[1:]
        many = height * width * 2**channels if self.threat.norm == "linf" and channels <= _CHANNELS else 0
        return torch.zeros(len(x), many, dtype=torch.uint8, device=x.device)

    def step(self, model: nn.Module, state: State, rng: Draws) -> State:
        """Return the state after a query: a change is proposed, looked at, and kept where it helps."""
        if isinstance(rng, Streams):
            return self.several(model, state, rng, 1)
        with torch.no_grad():
            state = self._judged_as_code(model, state)
            return state if bool(state["over"].all()) else state | {"here": self._proposed_as_code(state, rng)}

    def several(self, model: nn.Module, state: State, rng: Streams, count: int) -> State:
        """Return the state after the next ``count`` queries of each example that need the model, in one forward.

        All are proposed from the best input so far, and the first one that is kept ends them: those behind it would
        have begun there, and do not count. So an example takes the same way whatever the count. Queries whose answer is
        known pass without a forward: see ``_asked``.
        """
        with torch.no_grad():
            asked, y = self._asked(state, rng, count), state["y"].repeat_interleave(count)
            here = asked.here.flatten(0, 1)
            logits = model(here).to(here.dtype)
            ahead, loss = self._valued(logits, y)
            better = (-loss.view(-1, count) > state["score"][:, None]) | (ahead.view(-1, count) <= 0)
            kept = better & asked.new & ~state["wrong"][:, None]
            fell, first = kept.any(dim=1), kept.byte().argmax(dim=1)
            used = torch.where(fell, asked.number.gather(1, first[:, None]).squeeze(1) + 1, asked.passed)
            counts = asked.new & (asked.number < used[:, None])
            place = torch.arange(0, len(here), count, device=y.device) + first
            found = (logits[place].argmax(dim=1) == state["y"]) == self.targeted
            step = state["step"] + used
            return state | {
                "step": step,
                "x_adv": chosen(fell, here if count == 1 else here[place], state["x_adv"]),
                "wrong": state["wrong"] | (fell & found),
                "score": torch.where(fell, -loss[place], state["score"]),
                "margin": torch.where(fell, ahead[place], state["margin"]),
                "over": (step >= self.queries) | (state["eps"] == 0),
                "finite": state["finite"] & (torch.isfinite(loss).view(-1, count) | ~counts).all(dim=1),
                "dull": state["dull"] | ((ahead == 0).view(-1, count) & counts).any(dim=1),
                "refused": asked.refused.masked_fill(fell[:, None], 0),
            }

    def _valued(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return how far logits are from success, 0 or less where they are one, and the loss to lower, (N,) each."""
        if self.targeted:
            return margin(logits, y), F.cross_entropy(logits, y, reduction="none")
        ahead = -margin(logits, y)
        return ahead, ahead

    def _judged_as_code(self, model: nn.Module, state: State) -> State:
        """Look at the model once; keep the proposals that lower the loss or succeed."""
        y, here, left = state["y"], state["here"], state["margin"] > 0
        seen = model(here[left]).to(here.dtype)  # as few inputs as the code shows it: company may change the last bit
        logits = seen.new_zeros(len(here), seen.shape[1]).masked_scatter(left[:, None], seen)
        ahead, loss = self._valued(logits, y)
        kept = left & ((-loss > state["score"]) | (ahead <= 0))
        step, best = state["step"] + 1, torch.where(kept, ahead, state["margin"])
        return state | {
            "step": step,
            "x_adv": chosen(kept, here, state["x_adv"]),
            "wrong": state["wrong"] | (kept & ((logits.argmax(dim=1) == y) == self.targeted)),
            "score": torch.where(kept, -loss, state["score"]),
            "margin": best,
            "over": (step > self.queries) | (best <= 0),
            "finite": state["finite"] & torch.isfinite(loss),
            "dull": state["dull"] | (left & (ahead == 0)),
        }

    def _plan(self, x: Tensor) -> Plan:
        return plan(
            height=x.shape[2], width=x.shape[3], norm=self.threat.norm, p=self.p,
            rescaled_to=self.queries if self.rescale else None, dtype=x.dtype, device=x.device,
        )  # fmt: skip

    def _start(self, rows: Rows, stream: Tensor, rng: Draws) -> Tensor:
        """Return where the search begins, (N, C, H, W)."""
        x, (channels, height, width) = rows.x, rows.x.shape[1:]
        if self.threat.norm == "linf":
            if isinstance(rng, Streams):
                sign = rng.of(stream).tag("stripes").sign(channels, 1, width, dtype=x.dtype)
            else:
                sign = _signs(rng, x, len(x), channels, 1, width)
            return torch.clamp(x + rows.eps.view(-1, 1, 1, 1) * sign, 0, 1)
        side, down, across = tiling(height, width)
        if isinstance(rng, Streams):
            sign = rng.of(stream).tag("tiles").sign(channels, down, across, dtype=x.dtype)
            flip = rng.of(stream).tag("flips").bits(down, across) < 0
        else:
            tiles = [(_flip(rng), _signs(rng, x, len(x), channels)) for _ in range(down * across)]
            flip = torch.tensor([one for one, _ in tiles], device=x.device).view(1, down, across)
            sign = torch.stack([one for _, one in tiles], dim=2).view(-1, channels, down, across)
            gap = max(height - 5, 0) // 2 if side == 1 else 0  # the code centres five and cuts the others
            sign = F.pad(sign, (gap, -gap, gap, -gap))
        delta = tiled(side, sign, flip, height, width, self.threat.norm)
        return self._inside(delta, x, rows.eps, as_reference=isinstance(rng, torch.Generator))

    def _inside(self, delta: Tensor, x: Tensor, eps: Tensor, *, as_reference: bool) -> Tensor:
        """Return x changed by delta: at length eps under l2, at most eps under l1, cut at the box."""
        if self.threat.norm == "l1":
            return self.threat.project(x + delta, x, eps * (1 - 1e-6))
        eps = eps.view(-1, 1, 1, 1)
        if as_reference:
            length = (delta**2).flatten(1).sum(dim=1).sqrt().view(-1, 1, 1, 1)
            return (x + delta / (length + TINY) * eps).clamp_(0, 1)
        length = torch.linalg.vector_norm(delta, dim=(1, 2, 3), keepdim=True)
        return torch.addcmul(x, delta, eps / (length + TINY)).clamp_(0, 1)

    def _asked(self, state: State, rng: Streams, count: int) -> Asked:
        """Return the next queries to ask of each example, (N, count, C, H, W).

        Under linf queries are passed over that are the best input itself, or that it has refused before: their loss is
        known not to be lower. Queries are looked at ``_AHEAD`` times as far as are asked.
        """
        flat = self.threat.norm == "linf"
        column = torch.arange(_AHEAD * count if flat else count, device=state["y"].device)
        number, left = column.expand(len(state["y"]), -1), (self.queries - state["step"])[:, None]
        before = state["step"][:, None] + column
        here, key, level = self._proposed(state, rng, before)
        new, end, refused = number < left, left.clamp(max=len(column)).squeeze(1), state["refused"]
        if not flat:
            return Asked(here=here, new=new, number=number, passed=end, refused=refused)
        new = new & ((here != state["x_adv"][:, None]).flatten(2).any(dim=2) | (before == 0))
        if refused.shape[1]:
            new = new & (refused.gather(1, key) != level)
        order = (~new).byte().sort(dim=1, stable=True).indices
        following, order = order[:, count : count + 1], order[:, :count]
        if refused.shape[1]:
            refused = refused.scatter(1, key.gather(1, order), level.gather(1, order))
        rows = torch.arange(len(here), device=order.device)[:, None]
        passed = torch.where(new.gather(1, following).squeeze(1), following.squeeze(1), end)
        return Asked(here=here[rows, order], new=new.gather(1, order), number=order, passed=passed, refused=refused)

    def _proposed(self, state: State, rng: Streams, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries of each example, (N, M, C, H, W): its best input, a window changed.

        Args:
            state: Of N examples.
            rng: Random numbers.
            before: (N, M), int64, how many queries are before each.

        Returns:
            The queries; and, (N, M) each, under linf where its window lies and its signs in one number, int64; the
            level of its size plus 1, uint8.
        """
        x, made, count = state["x"], self._plan(state["x"]), before.shape[1]
        start, before = before == 0, before.flatten()
        level, stream = torch.bucketize(before - 1, made.after), state["stream"].repeat_interleave(count)
        corner, flip, sign = _drawn(rng.of(stream + before), made.places[level], x)
        first, key = masks(corner[:, 0], made.sides[level], x), corner[:, 0, 0] * x.shape[3] + corner[:, 0, 1]
        if self.threat.norm == "linf":
            for channel in (sign > 0).flatten(1).unbind(dim=1):
                key = 2 * key + channel
            sign, first = sign.view(-1, count, *sign.shape[1:]), first.view(-1, count, *first.shape[1:])
            moved = torch.addcmul(x[:, None], sign, state["eps"].view(-1, 1, 1, 1, 1)).clamp_(0, 1)
            # Exact at 0 and 1, and several times faster than a choice.
            here = torch.lerp(state["x_adv"][:, None], moved, first)
        else:
            x, x_best, eps = (state[name].repeat_interleave(count, dim=0) for name in ("x", "x_adv", "eps"))
            second, turned = masks(corner[:, 1], made.sides[level], x), level + len(made.sides) * flip
            bumps, length = placed(made.bumps, turned, corner[:, 0], *x.shape[2:]), eps.view(-1, 1, 1, 1)
            delta = gathered(x_best - x, length, bumps, sign, first, second, self.threat.norm)
            here = self._inside(delta, x, eps, as_reference=False).unflatten(0, (-1, count))
        key, level = key.view_as(start), (level + 1).byte().view_as(start)
        if here.device.type == "cpu" and not bool(start.any()):
            return here, key, level
        return torch.where(start[..., None, None, None], state["here"][:, None], here), key, level

    def _proposed_as_code(self, state: State, generator: torch.Generator) -> Tensor:
        """Return the best inputs so far with one window changed, (N, C, H, W), drawn and rounded as the code does."""
        x, x_best, eps = state["x"], state["x_adv"], state["eps"].view(-1, 1, 1, 1)
        made = self._plan(x)
        level = torch.bucketize(state["step"] - 1, made.after)
        side = made.sides[level]
        corner, flip, sign = self._drawn_as_code(state, generator, made.places[level] - 1)
        first = masks(corner[:, 0], side, x)
        if self.threat.norm == "linf":
            return torch.lerp(x_best, self.threat.project(x_best + 2 * eps * sign, x, state["eps"]), first)
        second = masks(corner[:, 1], side, x)
        bumps = placed(made.bumps, level + len(made.sides) * flip, corner[:, 0], *x.shape[2:])
        delta = gathered_as_code(x_best - x, eps, bumps, sign, first, second, self.threat.norm)
        return self._inside(delta, x, state["eps"], as_reference=True)

    def _drawn_as_code(self, state: State, generator: torch.Generator, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what ``_drawn`` returns as the code draws it, from as many ``places`` less one."""
        x, linf = state["x"], self.threat.norm == "linf"
        count, channels = x.shape[:2]
        u = torch.stack([torch.rand(1, generator=generator) for _ in range(2 if linf else 4)], dim=1)
        corner = (u.view(1, -1, 2).to(x.device) * places[:, None]).long()
        if linf:
            sign = _signs(generator, x, channels, 1, 1).expand(count, -1, 1, 1)
            return corner, torch.zeros_like(state["over"]), sign
        flip = torch.full_like(state["over"], _flip(generator))
        sign = x.new_ones(count, channels, 1, 1)
        left = state["margin"] > 0  # signs are drawn for the examples that are left
        sign[left] = _signs(generator, x, int(left.sum()), channels, 1, 1)
        return corner, flip, sign


def _drawn(rng: Streams, places: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return corners of two windows, (N, 2, 2), whether the bump is transposed, (N,), and signs, (N, C, 1, 1).

    Args:
        rng: Of these examples and this step.
        places: (N, 2), at how many rows and columns a window fits.
        x: (N, C, H, W).
    """
    bits = rng.tag("window").bits(5 + x.shape[1])
    corner = ((bits[:, :4].view(-1, 2, 2) >> 32 & 0xFFFFFFFF) * places[:, None]) >> 32
    return corner, bits[:, 4] < 0, (bits[:, 5:] >> 63 | 1)[..., None, None].to(x.dtype)


def _signs(generator: torch.Generator, x: Tensor, *shape: int) -> Tensor:
    """Return random signs as the code draws them, of x's dtype."""
    return (2 * torch.rand(shape, generator=generator) - 1).sign().to(x)


def _flip(generator: torch.Generator) -> bool:
    """Return whether the code would transpose a bump."""
    return bool(torch.rand(1, generator=generator) > 0.5)
