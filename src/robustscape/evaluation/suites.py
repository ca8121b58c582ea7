"""Which attacks judge a model: the suites that ``robustscape evaluate --suite`` knows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

from robustscape.attacks.apgd import APGD
from robustscape.attacks.autoattack import AutoAttack
from robustscape.attacks.cw import CW
from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.losses import TargetedDLR
from robustscape.attacks.pgd import PGD
from robustscape.attacks.spsa import SPSA
from robustscape.attacks.square import Square
from robustscape.attacks.threat import ThreatModel
from robustscape.attacks.walk import Walk
from robustscape.types import Attack, BadInput

Name: TypeAlias = Literal["quick", "standard", "wu", "autoattack", "autoattack-plus", "autoattack-rand"]
NAMES: tuple[str, ...] = get_args(Name)

_WU_STEP = 2 / 255


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Some attacks that are reported as one: each searches what those before it left.

    Attributes:
        name: What a table calls it.
        parts: The attacks by their names, at least one.
        everyone: Whether it begins with every example that is classified correctly, so that its robust error is its
            own; otherwise with those that nothing before has fooled, and its robust error is the worst case so far.
    """

    name: str
    parts: Mapping[str, Attack]
    everyone: bool


def entry(attack: Attack, *, name: str, everyone: bool = False) -> Entry:
    """Return an attack as an entry; AutoAttack as its parts."""
    parts = attack.parts() if isinstance(attack, AutoAttack) else {name: attack}
    return Entry(name=name, parts=parts, everyone=everyone)


def given(attacks: Sequence[Attack]) -> tuple[Entry, ...]:
    """Return attacks given by hand as entries, each of a name of its own: its random numbers belong to that.

    How many steps it takes is no part of the name: more of them go on from the same start.
    """
    names = [re.sub(r"-\d+$", "", attack.describe().partition(" ")[0]) for attack in attacks]
    found = []
    for place, (name, attack) in enumerate(zip(names, attacks, strict=True)):
        before = names[:place].count(name)
        found.append(entry(attack, name=f"{name}, {before + 1}" if before else name))
    return tuple(found)


def entries(name: Name, threat: ThreatModel, quick: Callable[[], PGD]) -> tuple[Entry, ...]:
    """Return the attacks of a suite.

    - "quick": ``quick`` alone.
    - "standard": ``quick``, then APGD on the cross-entropy and, for nine targets, on the DLR, and Square with 1,000
      queries: what masks gradients from the first seldom does so from all.
    - "wu": the columns of Wu 2020, Table 2, each on every example: FGSM, PGD-20 and PGD-100 with step 2/255,
      CW-infinity (the margin, by PGD-100), SPSA (100 steps, c .001, rate .01, 256 samples), AutoAttack.
    - "autoattack", "autoattack-plus", "autoattack-rand": AutoAttack's versions; the last for models that are random on
      purpose.

    Args:
        name: Which.
        threat: Ball and box of all.
        quick: Makes the PGD of "quick", misclassified inputs wanted; not called where there is none.

    Raises:
        BadInput: a suite that there is not, or one that the norm has no attacks for.
    """
    if threat.norm == "l1" and name in ("quick", "standard", "wu"):
        raise BadInput(f"the suite {name} is of linf and l2, which PGD knows; did you mean autoattack?")
    if name == "quick":
        return (entry(quick(), name="PGD"),)

    if name == "standard":
        attacks: Sequence[Attack] = (
            quick(),
            APGD(threat=threat),
            APGD(threat=threat, loss=TargetedDLR()),
            Square(threat=threat, queries=1000, rescale=True),
        )
        names = ("PGD", "APGD-CE", "APGD-T", "Square")
        return tuple(entry(attack, name=short) for attack, short in zip(attacks, names, strict=True))
    if name == "wu":
        pgd = PGD(threat=threat, steps=20, step_size=_WU_STEP, result="misclassified")
        columns: dict[str, Attack] = {
            "FGSM": FGSM(threat=threat),
            "PGD-20": pgd,
            "PGD-100": replace(pgd, steps=100),
            "CW-inf": CW(threat=threat, steps=100, step_size=_WU_STEP),
            "SPSA": SPSA(threat=threat),
            "AutoAttack": AutoAttack(threat=threat),
        }
        return tuple(entry(attack, name=short, everyone=True) for short, attack in columns.items())
    if name == "autoattack":
        return given([AutoAttack(threat=threat)])
    if name == "autoattack-plus":
        return given([AutoAttack(threat=threat, version="plus")])
    if name == "autoattack-rand":
        return given([AutoAttack(threat=threat, version="rand")])
    raise BadInput(f"there is no suite {name!r}; there are {', '.join(NAMES)}")


def budget(attack: Attack, classes: int) -> int:
    """Return how many steps an example takes at most, over all restarts or targets: its share of a progress bar."""
    steps = getattr(attack, "steps", getattr(attack, "queries", 1)) * getattr(attack, "samples", 1)
    rounds = attack.rounds(classes) if isinstance(attack, Walk) else getattr(attack, "restarts", 1)
    return int(steps) * int(rounds)
