"""The one runner of studies: cells in turn or in processes of one thread each, kept on disk, never done twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import torch

from robustscape.config import nearest, to_plain
from robustscape.report.study import StudyResult
from robustscape.results import SCHEMA, commit, now, provenance, read_json, stopwatch, versions, write_json
from robustscape.runtime.pool import pooled
from robustscape.studies.study import Cell, Resumable, Study
from robustscape.types import BadInput, Plain, Splits

_UNITS = 100  # of progress, for each cell


def studying(
    study: Study, *, out: Path, only: Sequence[str] = (), processes: int = 1
) -> Generator[tuple[int, int], None, tuple[StudyResult, ...]]:
    """Do what is missing of a study, yielding (done, total); returns its parts.

    A finished cell is a file ``out/cells/NAME-KEY.json``, written at once; KEY stands for its settings, the versions
    of robustscape and of what computes, and the data. So a killed study goes on from there, parts share cells, and
    nothing is taken over from other settings. A cell that is ``Resumable`` keeps what it has begun in the folder of the
    same name. For the same bits with any number of processes, call it under
    ``runtime.threads`` with one thread where ``processes`` is 1.

    Args:
        study: The study.
        out: Its folder.
        only: Parts that are wanted; all where none is named.
        processes: Above 1: that many processes of one thread each, on the CPU. A script that asks for it needs
            ``if __name__ == "__main__":``.

    Raises:
        BadInput: processes below 1, a part that the study does not have, data that cannot be read, or a cell's file
            that is damaged.
        Diverged: a training did.
        RankLost: one of the processes died.
    """
    if processes < 1:
        raise BadInput(f"processes must be at least 1, not {processes}")
    parts = chosen(study, only)
    wanted = _with_needs(cell for part in parts for cell in study.cells(part))
    data = study.data()
    digest = _digest(data)
    paths = {cell: _path(out, cell, digest) for cell in wanted}
    found = {cell: _read(path) for cell, path in paths.items() if path.exists()}
    missing = [cell for cell in wanted if cell not in found]
    share = dict.fromkeys(missing, 0)
    yield _UNITS * len(found), _UNITS * len(wanted)
    while tasks := [_task(cell, found, paths[cell]) for cell in missing if cell not in found and _ready(cell, found)]:
        made = _pooled(data, tasks, processes) if processes > 1 and len(tasks) > 1 else _turn(data, tasks)
        with closing(made):
            for task, (done, total, finished) in made:
                cell = task.cell
                if finished is not None:
                    made_by = {"created": now(), "commit": commit(), "versions": _versions()}
                    found[cell] = {"schema": SCHEMA, "cell": to_plain(cell), **made_by, **finished}
                    write_json(paths[cell], found[cell])
                share[cell] = _UNITS if finished is not None else _UNITS * done // max(total, 1)
                yield sum(share.values()) + _UNITS * (len(wanted) - len(missing)), _UNITS * len(wanted)
    return tuple(_result(study, part, found, data) for part in parts)


def chosen(study: Study, only: Sequence[str]) -> tuple[str, ...]:
    """Return the parts that are wanted, in the study's order, all where none is named.

    Raises:
        BadInput: the study has no such part.
    """
    known = study.parts()
    unknown = next((part for part in only if part not in known), None)
    if unknown is not None:
        raise BadInput(f"{study.name} has no {unknown!r}{nearest(unknown, known)}; there are: {', '.join(known)}")
    return tuple(part for part in known if not only or part in only)


def planned(study: Study, *, out: Path, only: Sequence[str] = ()) -> tuple[tuple[Cell, bool], ...]:
    """Return the cells that a study's parts are made from, in the order of the work, and which of them are done.

    Args:
        study: The study.
        out: Its folder.
        only: Parts that are wanted; all where none is named.

    Raises:
        BadInput: a part that the study does not have, or data that cannot be read.
    """
    wanted = _with_needs(cell for part in chosen(study, only) for cell in study.cells(part))
    digest = _digest(study.data())
    return tuple((cell, _path(out, cell, digest).exists()) for cell in wanted)


def _result(study: Study, part: str, found: Mapping[Cell, Plain], data: Splits) -> StudyResult:
    """Return a part from its finished cells."""
    cells = list(study.cells(part))
    where = provenance(
        seconds=sum(found[cell]["seconds"] for cell in cells),
        device=torch.device("cpu"),
        precision=study.precision,
        seed=study.seed,
        model="",
        data=f"{data.train.name} ({len(data.train)}), {data.test.name} ({len(data.test)})",
        settings=study,
    )
    shown = study.show(part, {cell: found[cell]["value"] for cell in cells})
    return StudyResult(
        study=study.name,
        part=part,
        scale=study.scale,
        shown=shown,
        provenance=replace(
            where,
            created=max((found[cell]["created"] for cell in cells), default=where.created),
            commit=", ".join(sorted({found[cell]["commit"] for cell in cells})) or where.commit,
            versions=_versions(),
            threads=1,
        ),
        place=study.parts().index(part),
    )


# -- cells ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class _Task:
    """A cell, the values that it needs, and the folder that it may keep what it has begun in."""

    cell: Cell
    values: dict[Cell, Plain]
    folder: Path


def _with_needs(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells, each once and behind those that it needs."""
    ordered: dict[Cell, None] = {}
    for cell in cells:
        ordered.update(dict.fromkeys([*_with_needs(cell.needs), cell]))
    return list(ordered)


def _ready(cell: Cell, found: Mapping[Cell, Plain]) -> bool:
    return all(need in found for need in cell.needs)


def _task(cell: Cell, found: Mapping[Cell, Plain], path: Path) -> _Task:
    values = {need: found[need]["value"] for need in cell.needs}
    return _Task(cell=cell, values=values, folder=path.with_suffix(""))


_Event = tuple[int, int, dict[str, Plain] | None]
"""Done, total, and the value with its seconds once it is there."""


def _path(out: Path, cell: Cell, digest: str) -> Path:
    """Return the file of a cell: it names all that the value depends on, needs being fields of the cell."""
    text = json.dumps([to_plain(cell), _versions(), digest], sort_keys=True)
    return out / "cells" / f"{cell.name}-{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}.json"


def _read(path: Path) -> Plain:
    """Return what a finished cell's file holds."""
    plain = read_json(path)
    needed = {"seconds", "value", "created", "commit"}
    if not isinstance(plain, dict) or not needed <= set(plain):
        raise BadInput(f"{path} is not a finished cell of a study; delete it, and it is made anew")
    return plain


def _versions() -> dict[str, str]:
    """Return the versions that a cell depends on: those of a result, and the solvers'."""
    return versions() | {name: metadata.version(name) for name in ("scipy", "scikit-learn")}


def _digest(data: Splits) -> str:
    """Return a hash of all images, labels and indices."""
    digest = hashlib.blake2b(digest_size=16)
    for images in (data.train, data.validation, data.test):
        for values in (images.x, images.y, images.index):
            digest.update(str(tuple(values.shape)).encode())
            digest.update(values.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _events(data: Splits, task: _Task) -> Iterator[_Event]:
    """Do one cell and tell how far it is, its value last."""
    cell, seconds = task.cell, stopwatch()
    resumable = isinstance(cell, Resumable)
    work = cell.resuming(task.folder, data, task.values) if resumable else cell.running(data, task.values)
    done, total = 0, 1
    while True:
        try:
            done, total = next(work)
        except StopIteration as end:
            yield total, total, {"seconds": round(seconds(), 3), "value": end.value}
            return
        yield done, total, None


def _turn(data: Splits, tasks: Sequence[_Task]) -> Generator[tuple[_Task, _Event], None, None]:
    for task in tasks:
        for event in _events(data, task):
            yield task, event


def _pooled(data: Splits, tasks: Sequence[_Task], processes: int) -> Generator[tuple[_Task, _Event], None, None]:
    return pooled(_events, data, tasks, processes=processes)
