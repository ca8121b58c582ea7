"""Processes side by side. What they run must be found by them too, so it is evaluated from words."""

from __future__ import annotations

import multiprocessing
import operator
import signal
import subprocess
import sys

import pytest

from robustscape.runtime.pool import pooled, sendable
from robustscape.runtime.ranks import RankLost
from robustscape.types import BadInput, Diverged

_RAISE = "(_ for _ in ()).throw(__import__('robustscape.types').types.Diverged('here'))"


def evaluated(*tasks, processes=2):
    return pooled(operator.call, eval, tasks, processes=processes)


def test_end_to_end_items_are_passed_on_as_they_come():
    threads = "[__import__('torch').get_num_threads()]"
    process = "[__import__('os').getpid()]"
    made = evaluated(threads, "'abc'", "()", process)
    found = list(made)
    assert (threads, 1) in found
    assert [item for task, item in found if task == "'abc'"] == ["a", "b", "c"]
    assert len(found) == 5 and not multiprocessing.active_children()


def test_end_to_end_an_error_is_raised_here_and_ends_the_others():
    made = evaluated("iter(int, 1)", _RAISE)
    with pytest.raises(Diverged) as caught:
        for task, item in made:
            assert (task, item) == ("iter(int, 1)", 0)
    assert str(caught.value) == "here" and "in a process of its own: Traceback" in caught.value.__notes__[0]
    assert not multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "how"),
    [
        (f"__import__('signal').raise_signal({signal.SIGKILL:d})", "killed by SIGKILL"),
        ("__import__('os')._exit(3)", "ended with code 3"),
    ],
)
def test_end_to_end_a_process_that_dies_is_said_in_one_sentence(task, how):
    with pytest.raises(RankLost, match=how) as caught:
        list(evaluated(task, processes=1))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_end_to_end_closing_ends_what_is_in_the_middle_of_something():
    made = evaluated("iter(int, 1)", "[__import__('signal').pause()]")
    assert next(made) == ("iter(int, 1)", 0)
    assert len(multiprocessing.active_children()) == 2
    made.close()
    assert not multiprocessing.active_children()


_PARENT = """
import operator, signal
from robustscape.runtime.pool import pooled
busy = "iter([__import__('os').write(1, b'here\\\\n'), __import__('signal').pause()])"
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started without
    list(pooled(operator.call, eval, (busy, busy), processes=2))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_end_to_end_the_processes_end_with_the_one_that_asked(how, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        try:
            assert parent.stdout is not None
            assert [parent.stdout.readline(), parent.stdout.readline()] == [b"here\n"] * 2
            parent.send_signal(how)
            assert parent.communicate(timeout=60)[0] == b""  # its end comes once the last of them is gone
            assert parent.returncode == -how
        finally:
            parent.kill()


def test_contract_what_cannot_be_sent_is_refused():
    assert sendable(operator.call, eval) and not sendable(operator.call, lambda words: words)
    with pytest.raises(BadInput, match="processes=1"):
        next(pooled(operator.call, lambda words: words, ("1",), processes=2))
