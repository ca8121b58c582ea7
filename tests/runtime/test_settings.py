"""How the machine is used: what is refused, and what is given back."""

from __future__ import annotations

import pytest
import torch

from robustscape.runtime import Runtime, threads
from robustscape.types import BadInput


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        (dict(device="gpu"), "did you mean cpu or cuda"),
        (dict(threads=-1), "at least 0"),
    ],
)
def test_contract_what_the_machine_lacks_is_refused(settings, hint):
    with pytest.raises(BadInput, match=hint):
        Runtime(**settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_contract_cuda_where_there_is_none_is_refused():
    with pytest.raises(BadInput, match="sees no CUDA device"):
        Runtime(device="cuda")


def test_contract_threads_are_given_back():
    before = torch.get_num_threads()
    with threads(Runtime(threads=1)):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
