"""What the report says in words: its one sentence, its cautions, its definitions."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from robustscape.display import threat_words
from robustscape.evaluation.result import Evaluation
from robustscape.report.doubts import doubts
from robustscape.report.quantities import Quantity, apart, flatness, gap, mean, percent
from robustscape.runs import RunFolder, StudyFolder, checkpoints, grouped, labels

COMMANDS = {
    "log": "robustscape train RECIPE --out {runs}",
    "evaluation": "robustscape evaluate {runs}",
    "images": "robustscape evaluate {runs}",
    "slices": "robustscape measure {runs} slices",
    "flatness": "robustscape measure {runs} flatness",
    "histograms": "robustscape measure {runs} histograms",
}
"""Kind of result to the command that makes it."""

_OF_BOTH = (
    (
        "Threat model, ε (eps)",
        "What the adversary may do to an image: change every pixel by at most ε (L∞), or the whole image by at most ε "
        "in Euclidean length (L2). Pixels are in [0, 1], so 8/255 is eight grey levels of 255.",
    ),
    ("Attack", "The search for the worst image inside the threat model, such as PGD with so many steps and restarts."),
)
_OF_RUNS = (
    ("Clean error", "Fraction of test images that the network misclassifies without any attack."),
    (
        "Robust error",
        "Fraction of test images for which the attack found an input inside the threat model that the network "
        "misclassifies, those misclassified anyway included. It is a lower bound: a stronger attack can only raise it.",
    ),
    (
        "Last, best",
        "The network after the last epoch of training, and after the epoch that was best on the validation images. "
        "A best much lower than the last is robust overfitting.",
    ),
    (
        "Gap",
        "Robust error on the test images minus robust error on the training images, at the last epoch, in percentage "
        "points. It is how much of the robustness seen in training is not there on new images.",
    ),
    (
        "Flatness",
        "How much the robust loss rises, on average, when every layer's weights are moved at random by a small "
        "fraction ξ of their norm; nats per example. Small is flat. Flat networks tend to lose less on new images.",
    ),
    *_OF_BOTH,
    (
        "Intervals, ±",
        "In brackets: 95 % intervals (Wilson's for errors, Newcombe's for the gap, Student's t over random draws for "
        "flatness). After ±: the standard deviation over seeds, where a method was trained with several. One method's "
        "robust error is called clearly below another's where the difference exceeds 1.96 standard errors, of images "
        "(the same for both, where they are) and of seeds.",
    ),
    ("Training", "Wall-clock seconds of the training steps on the machine of each run, without evaluation."),
    ("n, seeds", "How many test images the errors are measured on, and the seeds of the runs of each method."),
    (
        "Searched, flips",
        "How many images an attack was tried on, and how many it fooled that nothing before it had. Its robust error "
        "is its own where it began with every image that is classified correctly, else that of all attacks so far.",
    ),
    (
        "Wrong here alone, McNemar's p",
        "Images that only the first of the two methods misclassifies under attack. p is the probability of a split "
        "between the two methods' own mistakes at least as uneven, were both equally robust (exact binomial test, "
        "two-sided). It speaks of these two networks on these images, not of other seeds. The intervals of paired "
        "differences are Newcombe's for errors and a paired bootstrap for losses.",
    ),
)  # fmt: skip
_OF_STUDIES = (
    (
        "Train, test, gap in a study",
        "Accuracy under the adversary, or under the noise, that the title names, in % of the training and of the test "
        "images; the gap is training minus test, in percentage points.",
    ),
    (
        "Paper, difference",
        "The number that the paper prints, and ours minus it: in percentage points for accuracies. – is for a row or "
        "a column that the paper does not have.",
    ),
    (
        "Exact adversary",
        "The worst input there is inside the threat model and the pixel range, by a closed form that a linear model "
        "allows. No attack can beat it, so the accuracy under it is exact, where an attack gives an upper bound.",
    ),
    ("± in a study", "The standard deviation over what the notes name, such as random directions."),
    (
        "Check",
        "A claim of a paper tried on many cases, in the form that is named: as printed, or corrected. Violations are "
        "the cases in which it failed by more than rounding; the worst is the largest of them, in the claim's own "
        "unit, or the largest error of an equation. A check without violations is no proof; one violation is a "
        "counterexample.",
    ),
)  # fmt: skip


def definitions(*, runs: bool, studies: bool) -> tuple[tuple[str, str], ...]:
    """Return terms with their definitions, of runs, of studies or of both."""
    return (_OF_RUNS if runs else _OF_BOTH) + (_OF_STUDIES if studies else ())


def command(kind: str, folders: Sequence[RunFolder]) -> str:
    """Return the command that would make a kind of result for some runs."""
    paths = [str(folder.path) for folder in folders]
    return COMMANDS[kind].format(runs=" ".join(shlex.quote(path) for path in paths))


def about_studies(studies: Sequence[StudyFolder]) -> str:
    """Return in one sentence what a page of studies alone shows."""
    parts = [
        f"{study.name} (scale {study.scale}, {len(study.parts)} part{'s' * (len(study.parts) != 1)})"
        for study in studies
    ]
    return f"Published work, done again and checked: {_list(parts)}."


def verdict(folders: Sequence[RunFolder]) -> str:
    """Return the one sentence that answers which of these methods will stay robust."""
    evaluations = {label: es for label, es in grouped(folders, "evaluation-last-test").items() if es}
    if not evaluations:
        return "No robust error at the last epoch has been measured yet, so nothing can be said about robustness."
    means = {label: percent([e.robust_error for e in es]) for label, es in evaluations.items()}
    errors = {label: error for label, error in means.items() if error is not None}
    robust = {label: e for label, e in errors.items() if e.value < 100 * (1 - 1 / len(evaluations[label][0].classes))}
    if not robust:
        return "None of these is robust: under attack, all do no better than guessing."
    leader = min(robust, key=lambda label: robust[label].value)
    if len(robust) == 1:
        return _alone(leader, folders, robust[leader], others=len(errors) > 1)
    return _ranked(leader, folders, robust, evaluations)


def _alone(leader: str, folders: Sequence[RunFolder], error: Quantity, *, others: bool) -> str:
    text = f"{leader} classifies {100 - error.value:.1f} % of the test images correctly under attack"
    found = _gaps(folders).get(leader)
    if found is not None:
        text += f", {abs(found.value):.1f} points {'fewer' if found.value >= 0 else 'more'} than of its training images"
    return text + ("; no other method here does better than guessing." if others else ".")


def _ranked(
    leader: str,
    folders: Sequence[RunFolder],
    robust: Mapping[str, Quantity],
    evaluations: Mapping[str, Sequence[Evaluation]],
) -> str:
    """Compare the leader with the others by error, then say what gap and flatness add.

    The gap is compared only with methods that err at most twice as often: a network that is hardly robust on its
    training images either has little to lose.
    """
    second = min((label for label in robust if label != leader), key=lambda label: robust[label].value)
    close = not apart(evaluations[leader], evaluations[second])
    text = f"{leader} has the lowest robust error at the end of training, {robust[leader].value:.1f} %"
    text += f" (not clearly below {second}, {robust[second].value:.1f} %)" if close else ""
    agreeing, others, compared = [], [], False
    near = {label for label, error in robust.items() if error.value <= 2 * robust[leader].value}
    gaps = {label: found for label, found in _gaps(folders).items() if label in near}
    for what, found in (("smallest gap to training", gaps), ("flattest loss", _flatnesses(folders))):
        found = {label: value for label, value in found.items() if label in robust}
        best = min(found, key=lambda label: found[label].value, default=leader)
        compared = compared or (leader in found and len(found) > 1)
        if leader in found and len(found) > 1 and _clearly(best, found):
            (agreeing if best == leader else others).append(what if best == leader else f"{best} has the {what}")
    if agreeing:
        text += f", {'and' if not others else 'with'} the {' and the '.join(agreeing)}"
    if others:
        return f"{text}, but {' and '.join(others)}."
    if agreeing:
        return f"{text}: the one to expect to stay robust{', if narrowly' if close else ''}."
    if compared:
        return f"{text}; what was measured of gap and flatness does not tell the methods apart."
    return f"{text}; gap and flatness would say whether it will stay so."


def _clearly(best: str, found: Mapping[str, Quantity]) -> bool:
    """Return whether the smallest value lies below the interval, or the spread over seeds, of every other."""
    others = [value for label, value in found.items() if label != best]
    return all(found[best].value < (v.value - (v.spread or 0) if v.low is None else v.low) for v in others)


def _gaps(folders: Sequence[RunFolder]) -> dict[str, Quantity]:
    pairs = grouped(folders, "evaluation-last-test", "evaluation-last-train")
    return {label: found for label, ps in pairs.items() if (found := mean([gap(*pair) for pair in ps])) is not None}


def _flatnesses(folders: Sequence[RunFolder]) -> dict[str, Quantity]:
    found = grouped(folders, "flatness-last")
    return {label: q for label, rs in found.items() if (q := mean([flatness(r) for r in rs])) is not None}


def cautions(folders: Sequence[RunFolder]) -> list[str]:
    """Return what a careful reader must know about these numbers."""
    found = []
    counts = {label: [f.seed for f in folders if f.label == label] for label in labels(folders)}
    single = [label for label, seeds in counts.items() if len(set(seeds)) == 1]
    if single:
        who = "Every method was" if len(single) == len(counts) else f"{_list(single)} {_was(single)}"
        found.append(f"{who} trained with one seed only: how much another seed would change the numbers is not known.")
    found += [f"{label} holds two runs of one seed." for label, s in counts.items() if len(s) > len(set(s)) > 0]
    tests = [e for es in grouped(folders, "evaluation-last-test").values() for e in es]
    if tests:
        smallest = min(e.robust_error.n for e in tests)
        found.append(f"Errors are measured on {smallest:,} test images: differences inside the intervals mean little.")
    for what, kinds in (
        ("under different threat models", {(e.norm, e.eps) for e in tests}),
        ("by different attacks", {e.attack for e in tests}),
    ):
        if len(kinds) > 1:
            found.append(f"The methods were judged {what}: their robust errors do not compare.")
    if len({e.index.tobytes() for e in tests}) > 1:
        found.append("Not all runs were judged on the same images: part of their differences comes from that.")
    if "best_on_test" in checkpoints(folders, "evaluation"):
        found.append(
            "“Best (selected on test)” was chosen on the images that judge it, as the papers do: it is too optimistic."
        )
    flats = [r for name in checkpoints(folders, "flatness") for rs in grouped(folders, f"flatness-{name}").values()
             for r in rs]  # fmt: skip
    if len({(r.xi, r.mode, r.split) for r in flats}) > 1:
        found.append("Flatness was measured in different ways (ξ, mode or images): its values do not compare.")
    if any(r.mode != "sound" for r in flats):
        found.append("Flatness “as published” gives the reference and the moved network attacks of unequal strength.")
    return found + guarded(folders) + doubts(folders)


def guarded(folders: Sequence[RunFolder]) -> list[str]:
    """Return what the guards noticed while the networks trained, each kind when it was first seen, and early stops."""
    said = []
    for folder in folders:
        if folder.log is None or not folder.log.epochs:
            continue
        who, entries = f"{folder.label}, seed {folder.seed}", folder.log.epochs
        first: dict[str, tuple[int, str]] = {}
        for entry in entries:
            for text in entry.warnings:
                first.setdefault(text.partition(":")[0], (entry.epoch, text))
        for kind, (epoch, text) in first.items():
            last = [entry.epoch for entry in entries if any(t.partition(":")[0] == kind for t in entry.warnings)][-1]
            until = "" if last == epoch else f", last seen in epoch {last} of {entries[-1].epoch}"
            said.append(f"{who}: epoch {epoch}: {text}{until}.")
        if entries[-1].stopped:
            said.append(f"{who}: training stopped after epoch {entries[-1].epoch}: {entries[-1].stopped}.")
    return said


def settings(folders: Sequence[RunFolder]) -> str:
    """Return in one line on what the summary's numbers stand: data, threat, attack, flatness."""
    tests = [e for es in grouped(folders, "evaluation-last-test").values() for e in es]
    flats = [r for rs in grouped(folders, "flatness-last").values() for r in rs]
    parts = [
        *dict.fromkeys(e.provenance.data for e in tests),
        *dict.fromkeys(threat_words(e.norm, e.eps) for e in tests),
        *dict.fromkeys(e.attack for e in tests),
        *dict.fromkeys(f"flatness {r.mode}, ξ = {r.xi:g}, {r.robust.n} draws, n = {r.n:,}" for r in flats),
    ]
    return " · ".join(parts)


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _was(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"
