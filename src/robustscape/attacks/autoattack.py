"""AutoAttack: an ensemble of attacks without parameters to tune, each on what the ones before left."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from robustscape.attacks._common import check, check_labels, check_pixels, told
from robustscape.attacks.apgd import APGD
from robustscape.attacks.fab import FAB
from robustscape.attacks.losses import DLR, TargetedDLR
from robustscape.attacks.queue import mean_logits, queued
from robustscape.attacks.square import Square
from robustscape.attacks.threat import ThreatModel
from robustscape.attacks.walk import Noting, Rows, radii
from robustscape.config import nearest
from robustscape.modes import evaluating
from robustscape.streams import Streams, numbered
from robustscape.types import BadInput

_TARGETS = 9
_STEPS, _QUERIES = 100, 5000
_PASSES = 20  # that each gradient of rand is the mean of, and what is judged
_NAMES = {name.lower(): name for name in ("APGD-CE", "APGD-DLR", "APGD-T", "FAB", "FAB-T", "Square")}


@dataclass(frozen=True, kw_only=True)
class AutoAttack:
    """The attacks of a version, one after the other, each on what those before left (Croce 2020).

    https://arxiv.org/abs/2003.01690, section 5. What is reported is the worst case over them. Attacks need
    100 steps or 5,000 queries each.

    - "standard": APGD on the cross-entropy, on the targeted DLR, targeted FAB, Square.
    - "plus": APGD on the cross-entropy and on the DLR with 5 restarts each, FAB with 5, Square, then targeted APGD
      and FAB.
    - "rand": APGD on both losses, each gradient a mean of 20, for models that are random on purpose.
    - names out of apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square: these, in this order, each with one restart (but
      under l1 APGD on the cross-entropy, which the standard version gives five).

    Attributes:
        threat: Ball and box that the inputs stay in.
        version: Which attacks.
        steps: Steps of APGD and FAB; the authors' 100 make it AutoAttack, fewer a quick look.
        queries: Queries of Square; the authors' 5,000, or others, to which its schedule is then fitted.
        batch_size: Inputs at once, at least 1.

    Deviations:
        From the authors' code: random numbers belong to the example, not to its batch; an example leaves as soon as
        it is misclassified; fewer than ten classes have K - 1 targets, and fewer than four take the loss that exists
        (their code ends with an IndexError); under "rand", predictions are of mean logits. ``reference`` is without
        these.
    """

    threat: ThreatModel = field(default_factory=ThreatModel)
    version: Literal["standard", "plus", "rand"] | tuple[str, ...] = "standard"
    steps: int = 100
    queries: int = 5000
    batch_size: int = 250

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if isinstance(self.version, list | tuple):
            names = tuple(str(name).lower() for name in self.version)
            object.__setattr__(self, "version", names)
            for name in names:
                if name not in _NAMES:
                    raise BadInput(
                        f"AutoAttack has no attack {name!r}{nearest(name, _NAMES)}; there are: {', '.join(_NAMES)}"
                    )
            if not names or len(set(names)) < len(names):
                raise BadInput(f"AutoAttack's version names each attack once, at least one, not {', '.join(names)!r}")
        elif self.version not in ("standard", "plus", "rand"):
            name = str(self.version).lower()
            one = f"; did you mean the list of it, ({name!r},)?" if name in _NAMES else ""
            raise BadInput(f"AutoAttack has the versions standard, plus and rand, not {self.version!r}{one}")
        for name in ("steps", "queries", "batch_size"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} must be at least 1, not {getattr(self, name)}")
        self.parts()

    def parts(self) -> dict[str, APGD | FAB | Square]:
        """Return the attacks by their names, in their order."""
        threat, steps, l1 = self.threat, self.steps, self.threat.norm == "l1"
        ce = APGD(threat=threat, steps=steps, restarts=5 if l1 else 1)
        dlr = APGD(threat=threat, steps=steps, loss=DLR())
        apgd_t = APGD(threat=threat, steps=steps, loss=TargetedDLR(), targets=5 if l1 else _TARGETS)
        fab_t = FAB(threat=threat, steps=steps, targets=_TARGETS)
        square = Square(threat=threat, queries=self.queries, rescale=self.queries != _QUERIES)
        if not isinstance(self.version, str):
            fab = FAB(threat=threat, steps=steps, targets=None)
            every = dict(zip(_NAMES.values(), (ce, dlr, apgd_t, fab, fab_t, square), strict=True))
            return {_NAMES[name]: every[_NAMES[name]] for name in self.version}
        if self.version == "standard":
            return {"APGD-CE": ce, "APGD-T": apgd_t, "FAB-T": fab_t, "Square": square}
        if self.version == "rand":
            return {"APGD-CE": replace(ce, eot=_PASSES, restarts=1), "APGD-DLR": replace(dlr, eot=_PASSES)}
        return {
            "APGD-CE": replace(ce, restarts=5),
            "APGD-DLR": replace(dlr, restarts=5),
            "FAB": FAB(threat=threat, steps=steps, targets=None, restarts=5),
            "Square": square,
            "APGD-T": replace(apgd_t, targets=_TARGETS),
            "FAB-T": fab_t,
        }

    def at(self, eps: float) -> AutoAttack:
        """Return the same attacks at another eps."""
        return replace(self, threat=replace(self.threat, eps=eps))

    def describe(self) -> str:
        """Return the attack in words, for captions: "AutoAttack standard (linf 8/255)"."""
        short = (
            "" if (self.steps, self.queries) == (_STEPS, _QUERIES) else f", {self.steps} steps, {self.queries} queries"
        )
        version = self.version if isinstance(self.version, str) else ", ".join(self.version)
        return f"AutoAttack {version} ({told(self.threat)}{short})"

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Streams | None = None, eps: Tensor | None = None
    ) -> Tensor:
        """Return the first misclassified input that was found for each, else the input itself.

        Warns where a loss is another for so few classes.

        Args:
            model: Pixels in [0, 1] to logits; run in eval mode, left without a trace.
            x: (N, C, H, W), float32 or float64 in [0, 1].
            y: (N,), labels.
            rng: Random numbers; by default seed 0, examples numbered in order.
            eps: (N,), a radius for each example; by default the threat model's.

        Raises:
            BadInput: half-precision inputs, pixels outside [0, 1], soft labels, labels or radii that do not fit.
            Diverged: the model gave NaN.
        """
        check(x, y)
        x = x.detach()
        check_pixels(x)
        rng = rng or numbered(x, "autoattack")
        assert rng.index is not None, "an attack's streams have an index"
        x_adv, parts = x.clone(), self.parts()
        passes = _PASSES if self.version == "rand" else 1
        with evaluating(model):
            with torch.no_grad():
                logits = torch.cat([mean_logits(model, part, passes) for part in x.split(self.batch_size)])
            check_labels(logits, y)
            rows = Rows(
                x=x, y=y, eps=radii(self.threat, x, eps), index=rng.index, logits=logits, round=torch.zeros_like(y)
            )
            left = logits.argmax(dim=1) == y
            for name, attack in parts.items():
                these = left.nonzero().flatten()
                width = min(self.batch_size, len(x))
                for settled in queued(attack, model, rows.take(these), rng.tag(name), width=width):
                    fooled = these[settled.rows[settled.wrong]]
                    x_adv[fooled] = settled.x_adv[settled.wrong]
                    left[fooled] = False
        for attack in parts.values():
            if isinstance(attack, Noting) and len(x) and (text := attack.note(logits.shape[1])):
                warnings.warn(text, stacklevel=2)
        return x_adv
