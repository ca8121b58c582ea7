import random

import numpy as np
import pytest
import torch

from robustscape.config import from_plain, members, to_plain
from robustscape.types import Architecture, BadInput


@pytest.fixture(params=sorted(members("Architecture")))
def architecture(request) -> Architecture:
    """Every member of the room, small where it has a width."""
    kind = members("Architecture")[request.param]
    return kind(width=2) if "width" in kind.__dataclass_fields__ else kind()


def test_contract_gives_logits_of_any_image_and_normalises_inside(architecture):
    x = torch.rand(3, 3, 9, 12)
    plain = architecture.build(image=(3, 9, 12), classes=4, seed=0).eval()
    assert plain(x).shape == (3, 4)
    settings = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 1.0, 2.0]}
    inside = from_plain(to_plain(architecture) | settings).build(image=(3, 9, 12), classes=4, seed=0).eval()
    mean, std = (torch.tensor(settings[name]).view(3, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(inside(x), plain((x - mean) / std))


def test_contract_state_dict_has_no_normalisation(architecture):
    inside = from_plain(to_plain(architecture) | {"mean": [0.4], "std": [0.2]})
    names = [set(a.build(image=(1, 8, 8), classes=2, seed=0).state_dict()) for a in (architecture, inside)]
    assert names[0] == names[1]


def test_contract_same_seed_same_weights_and_no_trace(architecture):
    torch.manual_seed(5)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first, again, other = (architecture.build(image=(1, 8, 8), classes=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_contract_weights_do_not_depend_on_the_global_seed(architecture):
    weights = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        model = architecture.build(image=(1, 8, 8), classes=3, seed=7)
        weights.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(weights[0], weights[1])


def test_contract_is_plain_data(architecture):
    assert from_plain(to_plain(architecture)) == architecture


def test_contract_runs_in_float64(architecture):
    model = architecture.build(image=(1, 8, 8), classes=3, seed=0).double().eval()
    assert model(torch.rand(2, 1, 8, 8, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("image, classes", [((1, 8), 3), ((0, 8, 8), 3), ((1, 8, 8), 1)])
def test_contract_refuses_shapes_that_cannot_be_meant(architecture, image, classes):
    with pytest.raises(BadInput, match=r"shape|classes"):
        architecture.build(image=image, classes=classes, seed=0)


def test_contract_refuses_constants_of_another_number_of_channels(architecture):
    coloured = from_plain(to_plain(architecture) | {"mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]})
    with pytest.raises(BadInput, match="3 numbers, but the images have 1"):
        coloured.build(image=(1, 8, 8), classes=3, seed=0)
