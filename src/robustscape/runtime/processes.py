"""What holds for every process that is started here: how it warns, and how its end is told."""

from __future__ import annotations

import pickle
import signal
import sys
import traceback
import warnings
from contextlib import suppress
from typing import TextIO

from robustscape.runtime.ranks import RankLost

GRACE = 5.0
"""Seconds that a process has to stop by itself, and the system to say how it ended."""

_LONGEST = 8000  # characters of a traceback that are passed on


def warn_plainly() -> None:
    """Let this process, which must be ours, write each warning as one line on stderr: "robustscape: MESSAGE"."""
    warnings.showwarning = _show


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Write a warning; where Python found it is left out."""
    with suppress(OSError):  # as Python does: a warning stops nothing
        (file or sys.stderr).write(f"robustscape: {' '.join(str(message).split())}\n")


def portable(error: Exception) -> Exception:
    """Return the error, or one that says the same where it cannot be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # of anyone's class, which pickle makes anew by its own code: that may raise anything
        return RuntimeError("\n".join((f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ()))))
    return error


def raised(error: Exception, where: str) -> Exception:
    """Return the error being handled with its traceback as a note, such as "on rank 1: ...", ready to be sent."""
    error.add_note(f"{where}: {traceback.format_exc()[-_LONGEST:]}")
    return portable(error)


def lost(who: str, code: int | None) -> RankLost:
    """Return the error which says that a process ended without a reason of its own.

    Args:
        who: The process in words.
        code: Its exit code; below 0 the signal that killed it.
    """
    how = (
        f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with code {code} and no reason"
    )
    return RankLost(
        f"{who} {how} (was the machine out of memory, or a script without `if __name__ == '__main__':`?), and the "
        "others stopped; the same command goes on from what was saved"
    )
