"""What the attack of an objective raises."""

from __future__ import annotations

from dataclasses import replace

from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.friendly import Friendly
from robustscape.attacks.losses import KL, CrossEntropy
from robustscape.attacks.pgd import PGD
from robustscape.types import Attack, BadInput


def raising(attack: Attack, loss: CrossEntropy | KL) -> Attack:
    """Return the attack with a loss in place of the cross-entropy or divergence that it raises; any other as it is.

    Raises:
        BadInput: it would begin at the clean input, where the divergence has no gradient.
    """
    if not isinstance(attack, PGD | FGSM | Friendly):
        return attack
    if isinstance(attack.loss, CrossEntropy | KL) and attack.loss != loss:
        attack = replace(attack, loss=loss)
    if not isinstance(attack.loss, KL):
        return attack
    if isinstance(attack, FGSM):
        if not attack.random_start:
            raise BadInput("the divergence has no gradient at the clean input; did you mean FGSM's random_start?")
    elif attack.start == "none":
        raise BadInput("the divergence has no gradient at the clean input, where start='none' begins; did you mean "
                       "start='gaussian'?")  # fmt: skip
    return attack
