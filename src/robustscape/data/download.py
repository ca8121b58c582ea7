"""Download a file: gone on with after an interruption, whole and verified or not there at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from robustscape.data.sources import Source
from robustscape.types import BadInput

if TYPE_CHECKING:
    from rich.progress import Progress

_TRIES = 5
_SILENCE = 30
"""Seconds without a byte after which an address counts as dead."""

_CHUNK = 1 << 14
"""Bytes that are written at a time, and the most that an interruption loses."""


def download(source: Source, cache: Path, *, put: Path) -> Path:
    """Return the path of a file in the cache, downloaded there unless it is there whole.

    What has arrived when a download breaks off waits in ``FILE.part``, from which the next one goes on; the file
    takes its name when its MD5 is right. Several processes that want it at once download it once.

    Args:
        source: Which file.
        cache: Folder that it is put into.
        put: Where a user may lay the file, for messages.

    Raises:
        BadInput: no address gives it, what they give is another file, or the cache cannot be written.
    """
    from filelock import FileLock

    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / ".lock"):
            return _downloaded(source, cache, put)
    except OSError as error:
        with suppress(OSError):
            (cache / f"{source.original}.part").unlink()
        raise BadInput(
            f"{source.original} cannot be downloaded: {cache} cannot be written ({error.strerror or error});"
            f" make room there, or put the file into {put}"
        ) from None


def _downloaded(source: Source, cache: Path, put: Path) -> Path:
    import pooch
    from requests.exceptions import RequestException

    part, reasons = cache / f"{source.original}.part", []
    for address in source.addresses:
        for _ in range(_TRIES):
            before = _size(part)
            try:
                with _display() as progress:
                    got = pooch.retrieve(
                        address,
                        known_hash=f"md5:{source.archive_md5}",
                        fname=source.original,
                        path=cache,
                        downloader=_Resuming(part, progress),  # pyright: ignore[reportArgumentType] (one method less)
                    )
                return Path(got)
            except RequestException:
                if _size(part) == before:  # nothing came
                    reasons.append(f"no answer from {address}")
                    break
            except ValueError:
                if not before:  # else what waited here was of another file, and is gone now
                    reasons.append(f"{address} sends an altered file")
                    break
        else:
            reasons.append(f"{address} breaks off again and again; the same command goes on from there")
    raise BadInput(
        f"{source.original} was not found and cannot be downloaded ({', '.join(reasons)});"
        f" put it into {put}, or name the folder that holds it by data_dir or the variable ROBUSTSCAPE_DATA"
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class _Resuming:
    """What pooch calls to fetch an address into a file: by way of a part that outlives an interruption."""

    def __init__(self, part: Path, progress: Progress) -> None:
        self._part, self._progress = part, progress

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Fetch what is missing of the part, then give it the name that pooch wants; ``pooch`` is not used."""
        import requests

        there = _size(self._part)
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={there}-"} if there else {})
        with requests.get(url, headers=headers, stream=True, timeout=_SILENCE) as answer:
            if answer.status_code == requests.codes.requested_range_not_satisfiable:
                self._part.unlink()  # longer than the file: of another one
            answer.raise_for_status()
            onward = answer.headers.get("Content-Range", "").startswith(f"bytes {there}-")
            done, length = there if onward else 0, int(answer.headers.get("Content-Length", 0))
            task = self._progress.add_task(Path(url).name, total=done + length or None, completed=done)
            with self._part.open("ab" if onward else "wb") as file:
                for chunk in answer.iter_content(_CHUNK):
                    file.write(chunk)
                    self._progress.update(task, advance=len(chunk))
        os.replace(self._part, output_file)


@contextmanager
def _display() -> Iterator[Progress]:
    """Show a bar on a terminal, where pooch's own line is left out; elsewhere that line and no bar."""
    import pooch
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console, logger = Console(stderr=True), pooch.get_logger()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    level = logger.level
    try:
        if console.is_terminal:
            logger.setLevel("WARNING")
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            yield progress
    finally:
        logger.setLevel(level)
