"""Which rounds are searched next."""

from __future__ import annotations

from robustscape.attacks._turns import Turns


def test_closed_form_rounds_ahead_are_for_survivors_of_their_first_alone():
    turns = Turns([0, 0, 1], 4)
    assert turns.started(2, 9) == [(0, 0), (1, 0)]  # one waits
    assert turns.started(1, 9) == [(2, 1)]  # none has survived yet
    assert turns.failed(1)
    assert turns.started(1, 4) == [(1, 1), (1, 2), (1, 3)]
    assert turns.started(5, 5) == []


def test_closed_form_who_is_behind_goes_first():
    turns = Turns([0, 0], 5)
    turns.started(2)
    assert turns.failed(0) and turns.failed(1) and turns.started(1) == [(0, 1)]
    assert turns.started(1, 4) == [(1, 1), (0, 2), (1, 2), (0, 3)]
    turns.done([0])
    assert turns.started(3, 3) == [(1, 3), (1, 4)]


def test_closed_form_a_round_that_has_begun_does_not_wait():
    turns = Turns([0], 3)
    turns.started(1)
    assert turns.failed(0) and turns.started(1, 9) == [(0, 1), (0, 2)]
    assert turns.failed(0) and turns.now == [2] and turns.started(1, 9) == []
    assert not turns.failed(0)
