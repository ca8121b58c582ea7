"""Every figure that the results of runs and studies can give, as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from robustscape.display import threat_words
from robustscape.evaluation.correlation import LEAST
from robustscape.figures import flatness, histograms, images, panels, pictures, training_curves
from robustscape.figures import relations as relation_figures
from robustscape.figures.style import caption, figure, legend, save, styled
from robustscape.pictures.all import shown
from robustscape.relations import GAP, LATE, LOSS, Relations, levels, relations, unlevelled
from robustscape.runs import RunFolder, StudyFolder, checkpoints, grouped, labels, logs, read_folders
from robustscape.types import BadInput

_MANY = 8  # groups that a caption does not name one by one where they are alike

Form: TypeAlias = Literal["pdf", "png", "svg"]
"""Kinds of file: vector graphics for papers and the web, and pixels at 200 to the inch."""


def draw(run: Path | Sequence[Path], out: Path | None = None, *, form: Form = "pdf") -> list[Path]:
    """Draw every figure that there are results for, ready for a paper: as PDF vector graphics with Type 42 fonts.

    Several runs are drawn into the same figures, grouped by seed. The same results give the same bytes.

    Args:
        run: A run directory (or one of them), a study's folder, or several.
        out: Directory for the files; by default ``figures`` in the run directory, or the study's folder itself.
        form: Kind of file.

    Returns:
        The files written: training-curves, and for each checkpoint one of every measurement, histograms and, for
        each run, images; of four runs and more relations, of ten relations-levels; one for each part of a study that
        has a figure.

    Raises:
        BadInput: neither a run nor a study there, nothing to draw, or several runs without ``out``.
    """
    paths = [run] if isinstance(run, Path) else list(run)
    found = read_folders(paths)
    if out is None and len(paths) > 1:
        raise BadInput("several runs in one figure need a directory to write to: --out")
    made = _studies(found.studies, out, form)
    if found.runs:
        out = paths[0] / "figures" if out is None else out
        with styled():
            parts = (_curves, _pictures, _flatness, _relations, _histograms, _images)
            made += [path for part in parts for path in part(found.runs, out, form)]
    if not made:
        raise BadInput(f"{paths[0]} holds nothing to draw yet: neither a training log, nor results, nor panels")
    return made


def _studies(studies: Sequence[StudyFolder], out: Path | None, form: Form) -> list[Path]:
    paths = []
    for study in studies:
        for part in study.parts:
            if part.shown.panels:
                name = f"{part.part}.{form}" if out is None else f"{study.name}-{study.scale}-{part.part}.{form}"
                paths.append((study.path if out is None else out) / name)
                panels.write(part.shown.panels, paths[-1:])
    return paths


def _curves(folders: Sequence[RunFolder], out: Path, form: Form) -> list[Path]:
    found = logs(folders)
    if not any(found.values()):
        return []
    made, (left, right) = figure(1, 2, height=2.4)
    training_curves.draw(left, found, quantity="robust")
    training_curves.draw(right, found, quantity="clean")
    legend(made, _drawn(found), [(line, name) for name, line in training_curves.line_styles(found).items()])
    tracked = {
        f"{name}: n = {of.n:,}" for group in found.values() for log in group for name, of in _last_tracked(log).items()
    }
    caption(made, f"Accuracy at the end of each epoch, {'; '.join(sorted(tracked))}. {_seeds(found)}")
    return [save(made, out / f"training-curves.{form}")]


def _last_tracked(log: Any) -> Mapping[str, Any]:
    return next((entry.tracked for entry in reversed(log.epochs) if entry.tracked), {})


def _pictures(folders: Sequence[RunFolder], out: Path, form: Form) -> list[Path]:
    """A figure of every measurement that has a picture, for each checkpoint."""
    paths = []
    for each in shown(folders, every=True):
        checkpoint = [f"Checkpoint {each.checkpoint}."] if each.checkpoint else []
        text = " ".join([f"{each.picture.title}.", *checkpoint, _counted(each.runs)])
        path = out / f"{each.file}.{form}"
        paths.append(
            pictures.write(each.picture, [label if count else "" for label, count in each.runs.items()], text, path)
        )
    return paths


def _flatness(folders: Sequence[RunFolder], out: Path, form: Form) -> list[Path]:
    paths = []
    for checkpoint in checkpoints(folders, "flatness"):
        found = grouped(folders, f"flatness-{checkpoint}", f"evaluation-{checkpoint}-test")
        if not any(found.values()):
            continue
        made, (ax,) = figure(1, 1, height=3)
        flatness.draw(ax, found)
        legend(made, _drawn(found), marked=True)
        flat, evaluation = next(pair for group in found.values() for pair in group)
        caption(
            made,
            f"Checkpoint {checkpoint}; flatness {flat.mode}, ξ = {flat.xi:g}, {flat.robust.n} draws, {flat.attack}, "
            f"{flat.split}, n = {flat.n:,}; error: {threat_words(evaluation.norm, evaluation.eps)}, "
            f"{evaluation.attack}, {evaluation.split}, n = {evaluation.robust_error.n:,}; 95 % intervals. "
            f"{_seeds(found)}",
        )
        paths.append(save(made, out / f"error-flatness-{checkpoint}.{form}"))
    return paths


def _relations(folders: Sequence[RunFolder], out: Path, form: Form) -> list[Path]:
    """What goes with robustness, of four runs and more: the first measure's parts, then each measure's own panel."""
    found = relations(folders) if len(folders) >= LEAST else None
    if found is None or len(found.last) < LEAST:
        return []
    measures = list(found.measures)
    parts = [(measures[0], outcome) for outcome in (LOSS, GAP, LATE)] if measures else []
    paths = [_related(found, folders, parts, out / f"relations.{form}", errors=True)]
    others = [(measure, LOSS) for measure in measures]
    if len(others) > 1:
        paths.append(_related(found, folders, others, out / f"relations-measures.{form}"))
    if levels(found) and measures:
        paths.append(_levels(found, folders, out / f"relations-levels.{form}"))
    return paths


def _levels(found: Relations, folders: Sequence[RunFolder], path: Path) -> Path:
    """Write a figure of each measure of good, average and poor networks."""
    count = len(found.measures)
    made, axes = figure(-(-count // 2), min(count, 2), height=2.2 * -(-count // 2) + 0.5)
    for ax, measure in zip(axes, found.measures, strict=False):
        relation_figures.draw_levels(ax, found, measure=measure)
    for ax in axes[count:]:
        ax.set_visible(False)
    legend(made, _there(found, folders), marked=True)
    text = (
        "Good, average, poor: divided at the 30 % and the 70 % percentile of the robust error (Stutz 2021, table 1); "
    )
    text += "lines: means; 95 % intervals; from left to right the robust error rises within each. "
    caption(made, " ".join([text + _judged(found), *found.notes]))
    return save(made, path)


def _there(found: Relations, folders: Sequence[RunFolder]) -> list[str]:
    there = {network.label for network in found.last}
    return [label if label in there else "" for label in labels(folders)]


def _judged(found: Relations) -> str:
    """Say how all runs were judged."""
    judged = found.judged
    assert judged is not None, "at least four runs were judged"
    text = f"{threat_words(judged.norm, judged.eps)}, {judged.attack}, test, n = {judged.robust_loss.n:,}. "
    return f"{text}Runs: {len(found.last)}."


def _related(
    found: Relations,
    folders: Sequence[RunFolder],
    parts: Sequence[tuple[str, str]],
    path: Path,
    *,
    errors: bool = False,
) -> Path:
    """Write a figure of (measure, outcome) panels, the robust error against the loss behind the first."""
    count = len(parts) + errors
    made, axes = figure(-(-count // 2), min(count, 2), height=2.2 * -(-count // 2) + 0.5)
    rest = list(axes)
    if errors:
        relation_figures.draw_errors(rest.pop(min(1, count - 1)), found)
    for ax, (measure, outcome) in zip(rest, parts, strict=False):
        relation_figures.draw(ax, found, x=measure, y=outcome)
    for ax in rest[len(parts) :]:
        ax.set_visible(False)
    legend(made, _there(found, folders), marked=True)
    text = "Filled: last checkpoint, open: best, an arrow between the two; 95 % intervals; dotted: least squares. "
    text += "Names with the seed, where there is room. "
    caption(made, " ".join([text + _judged(found), *found.notes, *filter(None, [unlevelled(found)])]))
    return save(made, path)


def _histograms(folders: Sequence[RunFolder], out: Path, form: Form) -> list[Path]:
    paths = []
    for checkpoint in checkpoints(folders, "histograms"):
        found = grouped(folders, f"histograms-{checkpoint}")
        names = histograms.layers(found)
        rows = (len(names) + 2) // 3
        made, axes = figure(rows, 3, height=1.7 * rows + 0.3)
        for ax, name in zip(axes, names, strict=False):
            histograms.draw(ax, found, layer=name)
        legend(made, _drawn(found))
        for ax in axes[len(names) :]:
            ax.set_visible(False)
        caption(made, f"Checkpoint {checkpoint}; biases and normalisation parameters left out. {_seeds(found)}")
        paths.append(save(made, out / f"histograms-{checkpoint}.{form}"))
    return paths


def _images(folders: Sequence[RunFolder], out: Path, form: Form) -> list[Path]:
    paths = []
    for checkpoint in checkpoints(folders, "images"):
        having = [folder for folder in folders if f"images-{checkpoint}" in folder.results]
        for folder in having:
            result = folder.results[f"images-{checkpoint}"]
            made, (ax,) = figure(1, 1, height=2.25)
            images.draw(ax, result)
            text = f"{folder.label}, seed {folder.seed}, checkpoint {checkpoint}; "
            caption(made, f"{text}{threat_words(result.norm, result.eps)}, {result.attack}. ✗: not the true class.")
            which = "" if len(having) == 1 else f"-{folder.path.resolve().name}"
            paths.append(save(made, out / f"images-{checkpoint}{which}.{form}"))
    return paths


def _drawn(found: Mapping[str, Sequence[Any]]) -> list[str]:
    """Labels of the groups that have something to draw, "" in the place of the others."""
    return [label if group else "" for label, group in found.items()]


def _seeds(found: Mapping[str, Sequence[Any]]) -> str:
    """How many seeds stand behind each group, in words."""
    return _counted({label: len(group) for label, group in found.items()})


def _counted(seeds: Mapping[str, int]) -> str:
    """Seeds by group, in words; what many groups have alike is said once."""
    there = {label: count for label, count in seeds.items() if count}
    if len(there) > _MANY and len(set(there.values())) == 1:
        return f"Seeds: {next(iter(there.values()))} each."
    return f"Seeds: {', '.join(f'{label} {count}' for label, count in there.items())}."
