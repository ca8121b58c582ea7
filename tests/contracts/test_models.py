"""What every architecture promises, whoever wrote it."""

from dataclasses import replace

import pytest
import torch

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.config import from_plain, to_plain
from robustscape.data.batches import Loader
from robustscape.modes import evaluating, frozen_statistics, training
from robustscape.objectives.at import AT
from robustscape.runtime import TRUTH, Runtime, fast
from robustscape.streams import Streams
from robustscape.training.checkpoints import digest, load_state, save_state
from robustscape.training.loop import fit, start
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.settings import Training
from robustscape.types import Architecture, BadInput, Images
from robustscape.weights.awp import AWP
from robustscape.weights.space import gaussian, normalised, select, shifted

IMAGES = [(1, 8, 8), (3, 13, 10), (1, 28, 28), (2, 32, 32), (3, 64, 64)]
SIZES = [(4, (1, 8, 8)), (3, (3, 13, 10)), (2, (1, 28, 28))]  # width and image


@pytest.fixture
def small(sized):
    return sized(width=4)


@pytest.fixture(params=SIZES, ids=lambda size: f"width {size[0]} on {size[1]}")
def tiny(sized, request):
    """A network of a width for images of a shape, its weights and running statistics unlike the initial ones."""
    width, image = request.param
    model = sized(width=width).build(image=image, classes=3, seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.1 * Streams(1, (name,)).normal(*parameter.shape))
        model.train()(_images(image, 16))
    return model, _images(image)


def _images(image, n=4, dtype=torch.float32):
    return torch.rand(n, *image, generator=torch.Generator().manual_seed(1), dtype=dtype)


def test_contract_is_an_architecture(architecture):
    assert isinstance(architecture, Architecture)


@pytest.mark.parametrize("image", IMAGES, ids=str)
@pytest.mark.parametrize("classes", [2, 10])
def test_contract_any_image_size_channels_and_classes(small, image, classes):
    model = small.build(image=image, classes=classes, seed=0)
    for mode in (True, False):
        logits = model.train(mode)(_images(image))
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


def _slope(model, x):
    x = x.clone().requires_grad_()
    logits = model(x)
    return logits.detach(), torch.autograd.grad(logits.square().sum(), x)[0]


def test_contract_fast_view_has_the_models_gradient(tiny):
    """Both sum in float32, in other orders: a ReLU whose input is 0 up to rounding may fall either way."""
    model, x = tiny
    with fast(model, Runtime(device="cpu", precision="float32")) as searched:
        found = _slope(searched, x)
    truth = _slope(model.eval(), x)
    assert (found[0] - truth[0]).norm() <= 1e-4 * truth[0].norm()
    assert (found[1] - truth[1]).norm() <= 0.01 * truth[1].norm()


def test_contract_statistics_move_in_train_mode_alone_and_can_be_taken_back(tiny, trace):
    model, x = tiny
    seen = trace(model)
    with torch.no_grad():
        with evaluating(model):
            one, all_ = model(x[:1]), model(x)
        with training(model), frozen_statistics(model):
            model(x)
    assert seen.found() == []
    torch.testing.assert_close(one, all_[:1], rtol=1e-4, atol=1e-4 * float(all_.abs().max()))
    with torch.no_grad(), training(model):
        model(x)
    assert bool(seen.found()) == any("running" in name for name, _ in model.named_buffers())


def test_contract_normalisation_is_not_among_the_weights(tiny, trace):
    model, x = tiny
    norms = [name for name, module in model.named_modules() if hasattr(module, "running_var")]
    everything, layers, weights = (set(select(model, scope)) for scope in ("all", "layers", "weights"))
    assert everything == {name for name, _ in model.named_parameters()}
    assert everything - layers == {f"{name}.{kind}" for name in norms for kind in ("weight", "bias")}
    assert layers - weights == {name for name in layers if name.endswith("bias")}
    point = select(model, "weights")
    model.eval()
    before, seen = model(x).detach(), trace(model)
    with shifted(model, normalised(gaussian(point, Streams(1)), point, "layer")):
        assert not torch.equal(model(x), before)
    assert seen.found() == []


OBJECTIVE = AT(attack=PGD(threat=ThreatModel(eps=0.1), steps=1))
SETTINGS = Training(epochs=1, batch_size=6, optimizer=SGD(lr=0.02), track=0)


def _fit(state, image):
    x = (255 * _images(image, 12)).to(torch.uint8)
    images = Images(x=x, y=torch.arange(12) % 3, index=torch.arange(12), classes=("a", "b", "c"), name="noise")
    return fit(
        state,
        Loader(images=images, batch_size=SETTINGS.batch_size, seed=1),
        objective=OBJECTIVE,
        weights=replace(AWP(), warmup=0.0),
        settings=SETTINGS,
        runtime=TRUTH,
        seed=1,
        tracked={},
    )


@pytest.mark.parametrize(
    ("width", "image"), [SIZES[0], *(pytest.param(*size, marks=pytest.mark.slow) for size in SIZES[1:])], ids=str
)
def test_end_to_end_trains_a_step_and_resumes_with_the_same_bits(sized, width, image, tmp_path):
    def begun():
        model = sized(width=width).build(image=image, classes=3, seed=0)
        return start(model, OBJECTIVE, SETTINGS)

    whole, resumed = begun(), begun()
    digests = [digest(whole.model)]
    for _ in _fit(whole, image):
        digests.append(digest(whole.model))
        if whole.done == 1:
            save_state(whole, tmp_path / "state.safetensors")
    load_state(resumed, tmp_path / "state.safetensors")
    for _ in _fit(resumed, image):
        pass
    assert len(set(digests)) == 1 + whole.done == 3
    assert digest(resumed.model) == digest(whole.model)


@pytest.mark.parametrize("precision, accuracy", [("float32", 1e-5), ("bfloat16", 0.05)])
def test_contract_fast_view_is_the_model(tiny, precision, accuracy, trace):
    """Logits differ by the view's rounding at most: 2^-8 an operation in bfloat16, a few layers of it."""
    model, x = tiny
    view = fast(model, Runtime(device="cpu", precision=precision))
    seen = trace(model)
    with view as searched, torch.no_grad():
        found = searched(x)
    assert seen.found() == []
    wanted = model.eval()(x).detach()
    assert found.dtype == torch.float32
    assert float((found - wanted).abs().max()) <= accuracy * float(wanted.abs().max())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.2)
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
    x = 0.3 + 0.2 * _images((3, 9, 12))  # normalised, these are pixels in [0, 1] again
    torch.testing.assert_close(inside(x), plain((x - mean) / std))
    assert set(inside.state_dict()) == set(plain.state_dict())


def test_contract_per_image_takes_brightness_and_contrast_out(small):
    if not hasattr(small, "per_image"):
        pytest.skip("normalises by constants alone")
    model = replace(small, per_image=True).build(image=(3, 9, 12), classes=4, seed=0).eval()
    assert set(model.state_dict()) == set(small.build(image=(3, 9, 12), classes=4, seed=0).state_dict())
    x = _images((3, 9, 12))
    truth = model(x).detach()
    close = 1e-4 * float(truth.abs().max())
    torch.testing.assert_close(model(0.2 + 0.5 * x), truth, rtol=1e-4, atol=close)
    with fast(model, Runtime(device="cpu", precision="float32")) as searched:
        torch.testing.assert_close(searched(x), truth, rtol=1e-4, atol=close)
    with pytest.raises(BadInput, match="per_image"):
        replace(small, per_image=True, mean=(0.5,), std=(0.5,))


@pytest.mark.parametrize(("image", "classes"), [((1, 8), 3), ((0, 8, 8), 3), ((1, 8, 8), 1)])
def test_contract_refuses_shapes_that_cannot_be_meant(small, image, classes):
    with pytest.raises(BadInput, match=r"shape|classes"):
        small.build(image=image, classes=classes, seed=0)


def test_contract_refuses_constants_of_another_number_of_channels(small):
    coloured = from_plain(to_plain(small) | {"mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]})
    with pytest.raises(BadInput, match="3 numbers, but the images have 1"):
        coloured.build(image=(1, 8, 8), classes=3, seed=0)
