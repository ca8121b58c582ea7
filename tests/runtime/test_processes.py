"""How processes that are started here warn and end."""

from __future__ import annotations

import signal
import warnings

from robustscape.runtime.processes import lost, portable, warn_plainly
from robustscape.types import BadInput


def test_contract_an_error_that_cannot_be_sent_says_the_same():
    error = BadInput("this")
    error.add_note("there")
    assert portable(error) is error
    error.lock = lambda: None
    assert str(portable(error)) == "BadInput: this\nthere"


def test_contract_how_a_process_ended_is_one_sentence():
    assert str(lost("rank 1 of 2", -signal.SIGKILL)).startswith("rank 1 of 2 was killed by SIGKILL (was the machine")
    assert str(lost("rank 1 of 2", 3)).startswith("rank 1 of 2 ended with code 3 and no reason (")


def test_contract_a_warning_is_one_line_that_names_no_file(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warn_plainly()
        warnings.warn("memory is short:\n  going on", stacklevel=2)
    assert capsys.readouterr().err == "robustscape: memory is short: going on\n"
