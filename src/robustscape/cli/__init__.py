"""The command line: ``robustscape VERB NOUN... --OPTION VALUE``. One verb a file; each reads one stop of the street."""

from __future__ import annotations

import errno
import importlib
import inspect
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from robustscape import __version__
from robustscape.config import nearest
from robustscape.runtime.processes import warn_plainly
from robustscape.types import BadInput, Diverged

VERBS = ("demo", "train", "label", "evaluate", "measure", "figure", "report", "study", "recipes", "bench", "info")
"""The verbs in the order of the street; each is a file here with a function ``main(arguments)``."""

_DATA = "ROBUSTSCAPE_DATA"

_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the disk is read-only",
    errno.ENOTDIR: "a file is where a folder should be",
    errno.EEXIST: "a file is where a folder should be",
    errno.EISDIR: "a folder is where a file should be",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EFBIG: "the file would be too large for this disk",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. What it warns of is a line each on stderr.

    Args:
        arguments: What stands after ``robustscape``; by default what the process was started with.

    Returns:
        The exit code: 0; 1 for a training that diverged; 2 for what a user can get wrong, a model that gives NaN
        among it, said in one sentence on stderr; 130 for an interruption; 141 where the reader of the output went
        away. tyro itself exits with 0 after --help and with 2 after arguments that cannot be parsed.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _data_folder(words), warnings.catch_warnings():
            warn_plainly()
            _dispatch(words)
    except BadInput as error:
        return _say(str(error), 2)
    except Diverged as error:
        return _say(str(error), 1 if words[:1] == ["train"] else 2)
    except KeyboardInterrupt:
        return _say("interrupted; the same command goes on from here", 130)
    except BrokenPipeError:  # whoever read the output, such as head, has enough
        sys.stderr.close()
        return 141
    except OSError as error:
        if error.errno not in _DISK:
            raise
        where = f": {error.filename}" if error.filename else ""
        return _say(f"{_DISK[error.errno]}{where}; nothing is left half-written", 2)
    return 0


def _say(sentence: str, code: int) -> int:
    sys.stderr.write(f"robustscape: {' '.join(sentence.split())}\n")  # one line, whatever a file is called
    return code


@contextmanager
def _data_folder(words: list[str]) -> Iterator[None]:
    """Take ``--data-dir DIR`` out of the words; data sets are then looked for there, as ROBUSTSCAPE_DATA says."""
    place = next((i for i, word in enumerate(words) if word.partition("=")[0] == "--data-dir"), None)
    if place is None:
        yield
        return
    _, equals, folder = words.pop(place).partition("=")
    folder = folder if equals else words.pop(place) if place < len(words) else ""
    if not Path(folder).expanduser().is_dir() or not folder:
        raise BadInput(f"--data-dir must name a folder that holds data sets, and {folder!r} is none")
    before = os.environ.get(_DATA)
    os.environ[_DATA] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ[_DATA]
        else:
            os.environ[_DATA] = before


def _dispatch(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(_overview())
    elif words[0] in ("-V", "--version"):
        sys.stdout.write(f"robustscape {__version__}\n")
    elif words[0] in VERBS:
        importlib.import_module(f"{__name__}.{words[0]}").main(words[1:])
    else:
        raise BadInput(f"there is no verb {words[0]!r}{nearest(words[0], VERBS)}; there are: {', '.join(VERBS)}")


def _overview() -> str:
    """Return what each verb does, and how to go on."""
    docs = {verb: inspect.getdoc(importlib.import_module(f"{__name__}.{verb}")) or "" for verb in VERBS}
    lines = [f"  {verb:<10}{text.partition(chr(10))[0]}" for verb, text in docs.items()]
    first = "robustscape: train, evaluate and look at robust image classifiers"
    data = f"--data-dir DIR, with any verb: where data sets lie, the same as the environment variable {_DATA}."
    last = f"`robustscape VERB --help` explains every option; `robustscape demo` shows the whole way.\n{data}"
    return "\n".join((first, "", "usage: robustscape VERB [NOUN ...] [--OPTION VALUE ...]", "", *lines, "", last, ""))
