"""What only a GPU shows; the logic around it is shared with the CPU and tested there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.evaluation.accuracy import evaluate
from robustscape.models.preact_resnet import PreActResNet
from robustscape.runtime import TRUTH, Runtime, fast, place, threads
from robustscape.runtime.memory import Parts

pytestmark = pytest.mark.gpu


def _fast() -> Runtime:
    return Runtime(device="cuda", precision="bfloat16")


def _net(device: str = "cuda") -> nn.Module:
    model = PreActResNet(width=4).build(image=(3, 32, 32), classes=10, seed=0)
    return place(model, Runtime(device=device)).eval()


def _batch(device: str = "cuda") -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(16, 3, 32, 32, generator=generator).to(device), torch.arange(16, device=device) % 10


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_contract_graphs_follow_moved_weights(device):
    if int(device[-1]) >= torch.cuda.device_count():
        pytest.skip("there is no second GPU")
    net, (x, _) = _net(device), _batch(device)
    view = fast(net, Runtime(device=device, precision="float32"))
    for move in (1.0, 1.5, 0.5):
        with torch.no_grad():
            for value in net.parameters():
                value.mul_(move)
        slopes = []
        with threads(Runtime(device=device, precision="float32")), view as f:
            for model in (f, net):
                inputs = x.clone().requires_grad_()
                slopes.append(torch.autograd.grad(model(inputs).logsumexp(dim=1).sum(), inputs)[0])
        torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-3, atol=1e-5)


def test_contract_the_same_attack_gives_the_same_bits():
    net, (x, y) = _net(), _batch()
    found = []
    for _ in range(2):
        with threads(_fast()), fast(net, _fast()) as f:
            found.append(PGD(steps=5)(f, x, y))
    assert torch.equal(found[0], found[1])


def test_contract_an_evaluation_on_the_gpu_finds_what_the_cpu_finds():
    x, y = _batch()
    there = evaluate(_net(), x, y, steps=5, restarts=1, loss_steps=5, loss_restarts=1, runtime=_fast())
    here = evaluate(_net("cpu"), x.cpu(), y.cpu(), steps=5, restarts=1, loss_steps=5, loss_restarts=1, runtime=TRUTH)
    assert abs(there.robust_error.value - here.robust_error.value) <= 1 / 16
    assert there.clean_error.value == here.clean_error.value


def test_contract_out_of_memory_halves_and_goes_on():
    parts = Parts(8)

    def work(rows: slice) -> torch.Tensor:
        count = rows.stop - rows.start
        if count > 2:
            torch.empty(2**50, dtype=torch.uint8, device="cuda")
        return torch.arange(rows.start, rows.stop, device="cuda")

    with pytest.warns(UserWarning, match="out of memory"):
        assert parts.run(work, 8).tolist() == list(range(8))
    assert parts.size == 2
