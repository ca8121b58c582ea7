"""How the machine is used: what is refused, and what is given back."""

from __future__ import annotations

import pytest
import torch

from robustscape.runtime import Runtime, threads
from robustscape.runtime.settings import exact_products
from robustscape.types import BadInput


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        (dict(device="gpu"), "did you mean cpu or cuda"),
        (dict(device="mps"), "'mps' is neither a CPU nor CUDA's; did you mean cpu or cuda"),
        (dict(device="meta"), "'meta' is neither"),
        (dict(device="xpu:0"), "'xpu:0' is neither"),
        (dict(precision="bf16"), "precision is one of auto, float32, bfloat16, tf32, not 'bf16'.*mean bfloat16"),
        (dict(precision="float16"), "not 'float16'"),
        (dict(compile=True), "compile is one of auto, yes, no, not True"),
        (dict(threads=-1), "at least 0"),
        (dict(micro_batch=-1), "at least 0"),
        (dict(device="cpu", precision="tf32"), "is CUDA's, and the device is 'cpu'; did you mean bfloat16"),
    ],
)
def test_contract_what_the_machine_lacks_is_refused(settings, hint):
    with pytest.raises(BadInput, match=hint):
        Runtime(**settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_contract_cuda_where_there_is_none_is_refused():
    with pytest.raises(BadInput, match="sees no CUDA device"):
        Runtime(device="cuda")


def test_contract_a_cuda_device_beyond_the_last_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert Runtime(device="cuda:0").torch_device() == torch.device("cuda:0")
    with pytest.raises(BadInput, match="'cuda:7' was asked for, but the last one is cuda:0"):
        Runtime(device="cuda:7")


def test_contract_threads_are_given_back():
    before = torch.get_num_threads()
    with threads(Runtime(threads=1)):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_contract_what_cuda_is_told_is_given_back(monkeypatch):
    """The flags exist without a device; here the device is said to be one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    before = _flags()
    with threads(Runtime(device="cuda", precision="tf32")):
        assert _flags() == (True, "high", True)
        with exact_products(torch.device("cuda")):
            assert _flags() == (False, "highest", True)
        assert _flags() == (True, "high", True)
    assert _flags() == before


def _flags():
    cudnn, asked = torch.backends.cudnn, torch.get_float32_matmul_precision()
    return cudnn.allow_tf32, asked, torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
def test_contract_a_precision_that_a_gpu_lacks_is_refused(monkeypatch, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old GPU")
    with pytest.raises(BadInput, match=f"precision '{precision}' is not one of an old GPU.*did you mean float32"):
        Runtime(device="cuda", precision=precision)
