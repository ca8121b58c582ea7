"""What an evaluation returns: numbers with their intervals, and the images behind them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from robustscape.types import Provenance


@dataclass(frozen=True, kw_only=True)
class Number:
    """A mean over examples with its 95 % interval: value, low <= value <= high, and n examples."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What one attack of an evaluation came to.

    Attributes:
        name: What a table calls it.
        attack: The attack in words, with norm, eps and budget.
        everyone: Whether it, or the first of the attacks that it is one of, began with every example that is classified
            correctly; otherwise with those that nothing before had fooled.
        tried: Examples that it searched.
        flips: Examples that it fooled and nothing before had.
        robust_error: Fraction misclassified without attack, by it or by those that it follows; Wilson interval.
        forwards: Examples that went through the network, those that fill a batch too.
        backwards: The same for gradients.
        seconds: Wall-clock seconds.
        unconfirmed: Successes of the search that float32 did not confirm; none of them counts.
        again: Examples searched a second time in float32.
        note: What weakens it, or what its loss or targets became for so few classes; "" for nothing.
        precision: Arithmetic of the search: "bfloat16", "tf32", "float32" or "float64"; "" in files of older versions.
            What it claims is judged in float32, or float64 under a model of that.
    """

    name: str
    attack: str
    everyone: bool
    tried: int
    flips: int
    robust_error: Number
    forwards: int
    backwards: int
    seconds: float
    unconfirmed: int
    again: int
    note: str = ""
    precision: str = ""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One look for a reason not to believe a robust accuracy.

    Attributes:
        name: What was looked for, for example "vanishing gradients"; always the same word for the same look.
        fired: Whether the reason was found.
        evidence: What was seen, one clause with its numbers.
        value: The number that decides, where one does.
        limit: Beyond which value it fires; "pixels" fires below.
        n: Examples that were looked at.
    """

    name: str
    fired: bool
    evidence: str
    value: float
    limit: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Clean and robust performance of one model on one set of examples.

    Attributes:
        clean_error: Fraction misclassified without attack, Wilson interval.
        robust_error: Fraction for which a misclassified input inside the threat model was found and
            confirmed in float32, clean ones included; Wilson interval.
        clean_loss: Cross-entropy, nats per example, bootstrap interval.
        robust_loss: Largest cross-entropy found inside the threat model, mean; nats, bootstrap interval.
        robust_loss_correct: The same over examples whose clean input is classified correctly; None if none.
        robust_loss_incorrect: The same over the others; None if none.
        classes: Class names, K.
        class_clean_error: (K,), fraction; NaN for a class without examples.
        class_robust_error: (K,), fraction; NaN for a class without examples.
        class_n: (K,), examples of each class.
        norm: Norm of the threat model, "linf" or "l2".
        eps: Its radius, in pixel units.
        attack: The attacks in words.
        split: Which split, for example "test".
        fooled: (n,), bool: robust_error's flags, in the order of ``index``.
        index: (n,), the examples' numbers in their data set.
        losses: (n,), the robust loss of each example, nats.
        provenance: Where it came from.
        suite: Which attacks, by the name of their suite; "" where they were given one by one.
        searches: What each attack came to, in their order.
        first: (n,), the place in ``searches`` of the first attack that fooled each example; -1 for none, -2 where it
            is misclassified without.
        steps: (n,), the steps that this attack had taken when it did, 0 where it does not say.
        findings: Reasons not to believe the robust error that were looked for, found or not; see ``sanity``.
        x_adv: (n, C, H, W), the input that fooled the model, the clean one where none did; None where it was not asked
            for, and in the file: see ``evaluation.adversarial``.
    """

    clean_error: Number
    robust_error: Number
    clean_loss: Number
    robust_loss: Number
    robust_loss_correct: Number | None
    robust_loss_incorrect: Number | None
    classes: tuple[str, ...]
    class_clean_error: np.ndarray
    class_robust_error: np.ndarray
    class_n: np.ndarray
    norm: str
    eps: float
    attack: str
    split: str
    fooled: np.ndarray
    index: np.ndarray
    losses: np.ndarray
    provenance: Provenance
    suite: str = ""
    searches: tuple[Searched, ...] = ()
    first: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    steps: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    findings: tuple[Finding, ...] = ()
    x_adv: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class AdversarialImages:
    """Clean images beside their adversarial ones.

    Attributes:
        x: (n, C, H, W), clean pixels in [0, 1].
        x_adv: (n, C, H, W), adversarial pixels in [0, 1].
        y: (n,), labels.
        clean_prediction: (n,), predicted class of x.
        adversarial_prediction: (n,), predicted class of x_adv.
        classes: Class names.
        norm: Norm of the threat model.
        eps: Its radius, in pixel units.
        attack: The attack in words.
        provenance: Where it came from.
    """

    x: np.ndarray
    x_adv: np.ndarray
    y: np.ndarray
    clean_prediction: np.ndarray
    adversarial_prediction: np.ndarray
    classes: tuple[str, ...]
    norm: str
    eps: float
    attack: str
    provenance: Provenance
