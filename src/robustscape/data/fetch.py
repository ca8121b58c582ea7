"""Find a file of a data set on disk, or download it; verified before it is used."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from pathlib import Path

from robustscape.data.archives import reason
from robustscape.data.download import download
from robustscape.data.sources import Source
from robustscape.types import BadInput

VARIABLE = "ROBUSTSCAPE_DATA"
"""Environment variable naming the folder that holds data sets."""

_MOST = 1 << 30
"""Bytes that a gzipped file of unknown origin may unpack to: many times MNIST's, and no bomb."""


def read(source: Source, dataset: str, data_dir: str | None) -> bytes:
    """Return the bytes of one file of a data set, decompressed and verified.

    The file, gzipped or not, is looked for in ``data_dir``, then in the folder that the environment
    variable ``ROBUSTSCAPE_DATA`` names, in each first under ``dataset`` and then directly; then in pooch's
    cache, into which it is downloaded where it is not there, with a progress bar on the terminal.
    A file that is damaged, or nowhere and not to be had, is a BadInput.

    Args:
        source: Which file.
        dataset: Name of the data set's own folder, such as "mnist".
        data_dir: A folder of the user's, or None.
    """
    import pooch

    folders, cache = folders_of(dataset, data_dir), Path(pooch.os_cache("robustscape")) / dataset
    places = [folder / source.original for folder in folders]
    if source.content_md5:
        places += [folder / source.file for folder in (*folders, cache)]
    for path in places:
        if path.is_file():
            return _verified(path, source)
    return _verified(download(source, cache, put=folders[0] if folders else cache), source)


def folders_of(dataset: str, data_dir: str | None) -> list[Path]:
    """Return the existing folders to look in.

    Raises:
        BadInput: ``data_dir`` is no folder.
    """
    if data_dir is not None and not Path(data_dir).expanduser().is_dir():
        raise BadInput(f"data_dir {data_dir!r} is not a folder; did you mean one that holds {dataset}/?")
    roots = [Path(root).expanduser() for root in (data_dir, os.environ.get(VARIABLE)) if root]
    return [folder for root in roots for folder in (root / dataset, root) if folder.is_dir()]


def _verified(path: Path, source: Source) -> bytes:
    """Return the content of a file after checking its MD5: nothing unknown is opened, but for its gzip."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    content, found, wanted = raw, _md5(raw), source.archive_md5
    if found == wanted:
        return gzip.decompress(raw) if source.gzipped else raw
    if source.content_md5:
        content, wanted = _unpacked(path, raw), source.content_md5
        found = _md5(content)
    if found != wanted:
        raise BadInput(
            f"{path} was altered or cut short, or is another file: its MD5 is {found}, the original's {wanted};"
            " delete it and fetch it again"
        )
    return content


def _unpacked(path: Path, raw: bytes) -> bytes:
    if path.suffix != ".gz":
        return raw
    try:
        with gzip.open(path) as file:
            content = file.read(_MOST + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise BadInput(f"{path} is damaged or was cut short ({reason(error)}); delete it and fetch it again") from None
    if len(content) > _MOST:
        raise BadInput(f"{path} unpacks to more than {_MOST:,} bytes: it is not the original; delete it")
    return content


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def find(given: str, *, holding: str, what: str = "folder", ending: str = "") -> Path:
    """Return a folder or file given by path, or by its name inside the folder that ``ROBUSTSCAPE_DATA`` names.

    Args:
        given: Path or name.
        holding: What it must hold, for the message where it is missing.
        what: What it is called in that message.
        ending: What its name may end in besides, for example ".zip".

    Raises:
        BadInput: it is in neither place.
    """
    roots = [Path(), Path(os.environ[VARIABLE]).expanduser()] if os.environ.get(VARIABLE) else [Path()]
    for root in roots:
        path = root / Path(given).expanduser()
        for candidate in (path, path.with_name(path.name + ending)) if path.name else (path,):
            if candidate.is_dir() or candidate.is_file():
                return candidate
    raise BadInput(
        f"there is no {what} {given!r}, here or in the folder that {VARIABLE} names;"
        f" put {holding} into {(roots[-1] / given).absolute()}"
    )
