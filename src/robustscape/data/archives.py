"""The files in a folder or a zip: listed, checked and read without unpacking anything onto the disk."""

from __future__ import annotations

import lzma
import os
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from robustscape.types import BadInput

Stamps: TypeAlias = dict[str, tuple[int, int]]
"""Name of a file to what changes when it does: size and time in a folder, size and checksum in a zip."""

BROKEN = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError, EOFError, OSError),
    *(ValueError, LookupError, TypeError, ArithmeticError, AttributeError, SyntaxError, RuntimeError, MemoryError),
    Warning,  # where warnings are errors
)
"""What the readers of zips, .npy files and images raise for a damaged one."""

_LARGEST = 1 << 26
"""Bytes that one file may have: an image of 32 x 32 has a thousand."""

_UNSUSPECTED = 1 << 28
"""Bytes below which a zip may be of any density."""

_DENSEST = 100
"""Bytes that one byte of a larger zip may stand for: images have 1 to 5, a bomb a thousand."""


def reason(error: BaseException) -> str:
    """Return what an error says, in one line of bounded length: some repeat the file."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def listed(source: Path, endings: tuple[str, ...]) -> Stamps:
    """Return the files with one of the endings in a folder or a zip, whatever its depth; hidden ones are left out.

    Args:
        source: Folder or zip file.
        endings: In small letters, with the point.

    Returns:
        Path inside the source, with slashes, to its stamp.

    Raises:
        BadInput: a damaged zip, names that lead out of it, a link, a bomb, a folder inside itself.
    """
    found = dict(_in_folder(source, endings) if source.is_dir() else _in_zip(source, endings))
    for name, (size, _) in found.items():
        if size > _LARGEST:
            raise BadInput(f"{name} in {source} has {size:,} bytes, and no image has more than {_LARGEST:,}")
    return found


def _wanted(name: str, endings: tuple[str, ...]) -> bool:
    parts = PurePosixPath(name).parts
    hidden = any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in parts)
    return name.lower().endswith(endings) and not hidden


def _in_folder(source: Path, endings: tuple[str, ...]) -> Iterator[tuple[str, tuple[int, int]]]:
    seen = set()
    for place, folders, files in os.walk(source, followlinks=True):
        about = os.stat(place)  # noqa: PTH116 (there are as many as classes, and os.walk gives text)
        if (about.st_dev, about.st_ino) in seen:
            raise BadInput(f"{place} is a link to a folder that is in {source} already; remove it")
        seen.add((about.st_dev, about.st_ino))
        folders.sort()
        for file in files:
            path = Path(place, file)
            name = path.relative_to(source).as_posix()
            if not _wanted(name, endings):
                continue
            try:
                about = path.stat()
            except OSError as error:
                raise BadInput(f"{path} cannot be read: {error.strerror}; is it a link to nothing?") from None
            if not stat.S_ISREG(about.st_mode):
                raise BadInput(f"{path} has the name of an image and is no file")
            yield name, (about.st_size, about.st_mtime_ns)


def _in_zip(source: Path, endings: tuple[str, ...]) -> Iterator[tuple[str, tuple[int, int]]]:
    with opened(source) as archive:
        for info in archive.infolist():
            if not _wanted(info.filename, endings) or info.is_dir():
                continue
            path = PurePosixPath(info.filename)
            if path.is_absolute() or ".." in path.parts:
                raise BadInput(f"{info.filename!r} in {source} is a name outside of it; make the zip anew")
            if stat.S_ISLNK(info.external_attr >> 16):
                raise BadInput(f"{info.filename} in {source} is a link; make the zip anew with the files themselves")
            if info.flag_bits & 1:
                raise BadInput(f"{info.filename} in {source} is encrypted; make the zip anew without a password")
            yield info.filename, (info.file_size, info.CRC)


def opened(source: Path) -> zipfile.ZipFile:
    """Open a zip file whose sizes can be meant.

    Raises:
        BadInput: it is damaged, or a bomb.
    """
    try:
        archive = zipfile.ZipFile(source)
        declared, size = sum(info.file_size for info in archive.infolist()), source.stat().st_size
    except BROKEN as error:
        raise BadInput(f"{source} is damaged or was cut short: {reason(error)}") from None
    if (declared > _UNSUSPECTED and declared > _DENSEST * size) or declared > memory():
        archive.close()
        raise BadInput(f"{source} of {size:,} bytes would unpack to {declared:,}: it is not opened")
    return archive


def contents(source: Path, stamps: Mapping[str, tuple[int, int]], names: Iterable[str]) -> Iterator[bytes]:
    """Give the bytes of files in turn, at most as many as their stamps say.

    Args:
        source: Folder or zip file.
        stamps: As ``listed`` gives them.
        names: Which files, in which order.

    Raises:
        BadInput: a file is damaged, or longer than it was.
    """
    archive = None if source.is_dir() else opened(source)
    try:
        for name in names:
            try:
                with (source / name).open("rb") if archive is None else archive.open(name) as file:
                    size = stamps[name][0]
                    content = file.read(size + 1)
            except BROKEN as error:
                raise BadInput(f"{name} in {source} is damaged: {reason(error)}") from None
            if len(content) != size:
                raise BadInput(f"{name} in {source} is damaged: it has not the {size:,} bytes that it should have")
            yield content
    finally:
        if archive is not None:
            archive.close()


def memory() -> int:
    """Return how many bytes of memory the machine has, 1 TiB where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 1 << 40
