"""What every architecture promises, whoever wrote it."""

from dataclasses import replace

import pytest
import torch

from robustscape.config import from_plain, to_plain
from robustscape.runtime import Runtime, fast
from robustscape.types import Architecture, BadInput

IMAGES = [(1, 8, 8), (3, 13, 10), (2, 32, 32)]


@pytest.fixture
def small(architecture):
    """The architecture, narrow where it has a width."""
    return replace(architecture, width=4) if hasattr(architecture, "width") else architecture


def _images(image, n=4, dtype=torch.float32):
    return torch.rand(n, *image, generator=torch.Generator().manual_seed(1), dtype=dtype)


def test_contract_is_an_architecture(architecture):
    assert isinstance(architecture, Architecture)


@pytest.mark.parametrize("image", IMAGES, ids=str)
@pytest.mark.parametrize("classes", [2, 10])
def test_contract_any_image_size_channels_and_classes(small, image, classes):
    model = small.build(image=image, classes=classes, seed=0)
    for training in (True, False):
        logits = model.train(training)(_images(image))
        assert logits.shape == (4, classes) and bool(torch.isfinite(logits).all())


def test_contract_weights_are_a_function_of_the_seed_alone(small):
    before = torch.get_rng_state()
    first = small.build(image=(1, 8, 8), classes=3, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    second, other = (small.build(image=(1, 8, 8), classes=3, seed=seed) for seed in (5, 6))
    torch.set_rng_state(before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_contract_float64_agrees_with_float32(small):
    model = small.build(image=(3, 8, 8), classes=3, seed=0).eval()
    x = _images((3, 8, 8))
    single = model(x).detach()
    double = model.double()(x.double()).detach()
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)  # float32 sums over a few layers


def test_contract_state_dict_goes_round(small):
    first, second = (small.build(image=(1, 8, 8), classes=3, seed=seed).eval() for seed in (0, 1))
    second.load_state_dict(first.state_dict(), strict=True)
    assert torch.equal(first(_images((1, 8, 8))), second(_images((1, 8, 8))))


@pytest.mark.parametrize("precision, accuracy", [("float32", 1e-5), ("bfloat16", 0.05)])
def test_contract_fast_view_is_the_model(small, precision, accuracy, trace):
    """Logits differ by the view's rounding at most: 2^-8 an operation in bfloat16, a few layers of it."""
    model = small.build(image=(3, 8, 8), classes=3, seed=0).train()
    x = _images((3, 8, 8), n=8)
    view = fast(model, Runtime(device="cpu", precision=precision))
    seen = trace(model)
    with view as searched, torch.no_grad():
        found = searched(x)
    assert seen.found() == []
    wanted = model.eval()(x).detach()
    assert found.dtype == torch.float32
    assert float((found - wanted).abs().max()) <= accuracy * float(wanted.abs().max())
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    with view as searched, torch.no_grad():
        moved = searched(x)
    assert not torch.equal(moved, found)
    wanted = model(x).detach()
    assert float((moved - wanted).abs().max()) <= accuracy * float(wanted.abs().max())


def test_contract_normalises_inside_and_keeps_it_out_of_the_state_dict(small):
    constants = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 1.0, 2.0]}
    plain = small.build(image=(3, 9, 12), classes=4, seed=0).eval()
    inside = from_plain(to_plain(small) | constants).build(image=(3, 9, 12), classes=4, seed=0).eval()
    mean, std = (torch.tensor(constants[name]).view(3, 1, 1) for name in ("mean", "std"))
    x = _images((3, 9, 12))
    torch.testing.assert_close(inside(x), plain((x - mean) / std))
    assert set(inside.state_dict()) == set(plain.state_dict())


@pytest.mark.parametrize(("image", "classes"), [((1, 8), 3), ((0, 8, 8), 3), ((1, 8, 8), 1)])
def test_contract_refuses_shapes_that_cannot_be_meant(small, image, classes):
    with pytest.raises(BadInput, match=r"shape|classes"):
        small.build(image=image, classes=classes, seed=0)


def test_contract_refuses_constants_of_another_number_of_channels(small):
    coloured = from_plain(to_plain(small) | {"mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]})
    with pytest.raises(BadInput, match="3 numbers, but the images have 1"):
        coloured.build(image=(1, 8, 8), classes=3, seed=0)
