"""Peaks of memory."""

import torch

from robustscape.benches.peaks import peak

MIB = 2**18  # numbers in float32


def _ones(before, during):
    """Hold some memory, and return work that takes more for a moment."""
    held = torch.ones(before * MIB)
    return lambda: (held.sum(), torch.ones(during * MIB).sum())


def test_closed_form_a_peak_is_what_the_work_takes_and_not_what_was_there():
    assert 60 < peak(_ones, 100, 64) < 90
    assert peak(_ones, 64, 1) < 20  # an earlier peak is forgotten
