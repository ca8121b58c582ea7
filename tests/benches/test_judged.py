"""What benches judge: the network of a run on its test images, or initial weights."""

from pathlib import Path

import pytest
import torch

from robustscape.benches.judged import judged, pass_seconds
from robustscape.benches.problem import TINY
from robustscape.results import read_json, write_json
from robustscape.runtime import Runtime
from robustscape.types import BadInput

RUN = Path(__file__).resolve().parents[2] / "benchmarks" / "checkpoints" / "digits" / "at"


def test_contract_a_run_gives_its_last_network_its_first_test_images_and_its_radius():
    given = judged(TINY, str(RUN), n=20, eps=None)
    assert given.eps == 0.1 and given.x.shape == (20, 1, 8, 8)
    assert float((given.model(given.x).argmax(dim=1) == given.y).float().mean()) > 0.8
    assert not given.model.training and str(RUN) in given.words
    assert judged(TINY, str(RUN), n=3, eps=0.05).eps == 0.05


def test_contract_without_a_run_the_labels_are_what_the_network_says():
    given = judged(TINY, None, n=6, eps=None)
    assert torch.equal(given.model(given.x).argmax(dim=1), given.y)
    assert "initial weights" in given.words and len(given.take(given.y >= 0).x) == 6


def test_contract_a_run_that_peers_cannot_judge_is_refused(tmp_path):
    document = read_json(RUN / "run.json")
    document["run"]["evaluation"]["norm"] = "l2"
    write_json(tmp_path / "run.json", document)
    with pytest.raises(BadInput, match="under l2"):
        judged(TINY, str(tmp_path), n=2, eps=None)


def test_contract_our_copy_of_the_network_is_another():
    given = judged(TINY, None, n=4, eps=None)
    ours = given.subject(Runtime(), 4)
    assert ours.model is not given.model and torch.equal(ours.x, given.x)
    assert all(map(torch.equal, ours.model.parameters(), given.model.parameters()))


class _Seen(torch.nn.Module):
    """Notes the sizes that it is given, and whether with gradients."""

    def __init__(self):
        super().__init__()
        self.sizes = set()

    def forward(self, x):
        self.sizes.add((len(x), x.requires_grad))
        return x.flatten(1)


def test_contract_a_pass_is_measured_at_the_size_asked_for():
    model = _Seen()
    forward, both = pass_seconds(model, torch.rand(2, 1, 2, 2), 5, Runtime(threads=1))
    assert model.sizes == {(5, False), (5, True)}
    assert forward > 0 and both > 0
