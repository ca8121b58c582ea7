"""Find a file of a data set on disk, or download it; verified before it is used."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from robustscape.data.sources import Source
from robustscape.types import BadInput

if TYPE_CHECKING:
    from rich.progress import Progress

VARIABLE = "ROBUSTSCAPE_DATA"
"""Environment variable naming the folder that holds data sets."""


def read(source: Source, dataset: str, data_dir: str | None) -> bytes:
    """Return the bytes of one file of a data set, decompressed and verified.

    The file, gzipped or not, is looked for in ``data_dir``, then in the folder that the environment
    variable ``ROBUSTSCAPE_DATA`` names, in each first directly and then under ``dataset``; then in pooch's
    cache, into which it is downloaded where it is not there, with a progress bar on the terminal.
    A file that is damaged, or nowhere and not to be had, is a BadInput.

    Args:
        source: Which file.
        dataset: Name of the data set's own folder, such as "mnist".
        data_dir: A folder of the user's, or None.
    """
    import pooch

    cache = Path(pooch.os_cache("robustscape")) / dataset
    folders = _folders(dataset, data_dir)
    for folder in (*folders, cache):
        for path in (folder / f"{source.file}.gz", folder / source.file):
            if path.is_file():
                return _verified(path, source)
    return _verified(_downloaded(source, cache, put=folders[-1] if folders else cache), source)


def _folders(dataset: str, data_dir: str | None) -> list[Path]:
    """Return the existing folders to look in."""
    if data_dir is not None and not Path(data_dir).expanduser().is_dir():
        raise BadInput(f"data_dir {data_dir!r} is not a folder; did you mean one that holds {dataset}/?")
    roots = [Path(root).expanduser() for root in (data_dir, os.environ.get(VARIABLE)) if root]
    return [folder for root in roots for folder in (root, root / dataset) if folder.is_dir()]


def _verified(path: Path, source: Source) -> bytes:
    """Return the content of a file after checking its MD5."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadInput(f"{path} is damaged or was cut short ({error}); delete it and fetch it again") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != source.content_md5:
        raise BadInput(
            f"{path} was altered or cut short: its content has MD5 {found}, the original {source.content_md5};"
            " delete it and fetch it again"
        )
    return content


def _downloaded(source: Source, cache: Path, put: Path) -> Path:
    """Download the file into the cache and return its path; ``put`` is where a user may lay it."""
    import pooch
    from requests.exceptions import RequestException

    file = f"{source.file}.gz"
    reasons = []
    for address in source.addresses:
        try:
            with _display() as progress:
                bar = _Bar(progress, file)
                got = pooch.retrieve(
                    address,
                    known_hash=f"md5:{source.archive_md5}",
                    fname=file,
                    path=cache,
                    downloader=pooch.HTTPDownloader(progressbar=bar, timeout=30),  # pyright: ignore[reportArgumentType]
                )
            return Path(got)
        except RequestException:
            reasons.append(f"no answer from {address}")
        except PermissionError:
            raise BadInput(f"{cache} cannot be written, so {file} cannot be downloaded; put it into {put}") from None
        except ValueError:
            reasons.append(f"{address} sends an altered file")
    raise BadInput(
        f"{file} was not found and cannot be downloaded ({', '.join(reasons)});"
        f" put it into {put}, or name the folder that holds it by data_dir or the variable {VARIABLE}"
    )


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


class _Bar:
    """What pooch asks of a progress bar, shown by rich."""

    def __init__(self, progress: Progress, description: str) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=None)
        self.total: int | None = None

    def update(self, amount: int) -> None:
        """Count more bytes."""
        self._progress.update(self._task, advance=amount, total=self.total)

    def reset(self) -> None:
        """Count from 0 again."""
        self._progress.reset(self._task)

    def close(self) -> None:
        """Do nothing: the display's own block closes it."""


def find(folder: str, *, holding: str) -> Path:
    """Return a folder given by path, or by its name inside the folder that ``ROBUSTSCAPE_DATA`` names.

    Args:
        folder: Path or name.
        holding: What it must hold, for the message where it is missing.

    Raises:
        BadInput: it is in neither place.
    """
    roots = [Path(), Path(os.environ[VARIABLE]).expanduser()] if os.environ.get(VARIABLE) else [Path()]
    for root in roots:
        path = root / Path(folder).expanduser()
        if path.is_dir():
            return path
    raise BadInput(
        f"there is no folder {folder!r}, here or in the folder that {VARIABLE} names;"
        f" put {holding} into {(roots[-1] / folder).absolute()}"
    )
