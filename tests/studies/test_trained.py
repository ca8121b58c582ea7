"""One training of a study."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from robustscape.data.digits import Digits
from robustscape.data.folder import Folder
from robustscape.data.splits import of_classes
from robustscape.evaluation.subject import drained
from robustscape.models.linear import Linear
from robustscape.streams import Streams
from robustscape.studies.trained import Trained, TrainedOn, accuracy, with_all
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.settings import Training
from robustscape.types import BadInput, Splits

TRAINING = Training(epochs=4, batch_size=20, optimizer=SGD(lr=0.3, momentum=0.0, weight_decay=0.0), track=0)


@pytest.fixture(scope="module")
def data():
    """60 images of the digits 0 and 1."""
    whole = Digits().load(seed=0)
    train, test = (of_classes(images, (0, 1)).take(slice(0, 60)) for images in (whole.train, whole.test))
    return Splits(train=train, validation=test, test=test)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("adversary", ["pgd", "noise"])
def test_end_to_end_a_training_is_judged_by_what_never_beats_the_exact_adversary(data, norm, adversary):
    cell = Trained(adversary=adversary, norm=norm, eps={"l2": 1.0, "linf": 0.2}[norm], training=TRAINING)
    value = drained(cell.running(data, {}))
    for split in ("train", "test"):
        assert value["exact"][split] <= value["found"][split] <= 1
        assert value["exact"][split] <= value["clean"][split]
    assert value["clean"]["test"] > 0.9
    assert value["exact"]["train"] > 0.4
    if adversary == "pgd":
        assert value["found"]["train"] - value["exact"]["train"] <= 1 / 60
    history = value["history"]
    latest = len(history) - history[::-1].index(max(history))
    assert (len(history), value["epoch"]) == (4, latest)
    assert len(value["w"]) == 64
    assert drained(cell.running(data, {})) == value
    assert drained(replace(cell, seed=1).running(data, {}))["w"] != value["w"]


def test_closed_form_the_weights_kept_have_the_exact_accuracy_that_is_told(data):
    cell = Trained(norm="linf", eps=0.15, training=TRAINING)
    value = drained(cell.running(data, {}))
    w, x, y = torch.tensor(value["w"]), data.test.pixels().flatten(1), 2 * data.test.y - 1
    x_adv = (x - 0.15 * y[:, None] * w.sign()).clamp(0, 1)
    assert value["exact"]["test"] == pytest.approx(float((y * (x_adv @ w) > 0).float().mean()))
    assert value["history"][value["epoch"] - 1] == value["exact"]["test"]


def test_closed_form_accuracy_counts_images_once(data):
    model = Linear(bias=False, outputs="one").build(image=(1, 8, 8), classes=2, seed=0)
    torch.nn.init.ones_(model.linear.weight)
    images = data.train.take(torch.arange(60).repeat(9))
    share = float((images.y == 1).float().mean())
    assert accuracy(model, images, lambda x, y, index: x) == pytest.approx(share)
    assert accuracy(model, images, lambda x, y, index: torch.zeros_like(x)) == pytest.approx(1 - share)


def test_contract_progress_is_told_in_epochs(data):
    assert list(Trained(training=TRAINING).running(data, {})) == [(n, 5) for n in range(5)]


def test_contract_names_tell_cells_apart_and_eps_0_is_one():
    cells = [Trained(adversary=a, norm=n, eps=e, training=TRAINING) for a in ("pgd", "noise") for n in ("l2", "linf")
             for e in (0.1, 0.2)]  # fmt: skip
    assert len({cell.name for cell in cells}) == 8
    assert Trained(training=TRAINING).name == "natural"


def test_end_to_end_images_in_folders_stand_in_for_the_studys(tmp_path, data, monkeypatch):
    """Of three classes the two named, in the order named, those of validation among them."""
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / name)
    for split, count in (("train", 30), ("test", 10)):
        for place, name in enumerate(("bird", "frog", "ship")):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = Streams(number, (split, name)).integers(100, 4, 4, 3).numpy().astype("uint8")
                pixels[:, :, place] += 120
                Image.fromarray(pixels).save(folder / f"{number}.png")
    source = Folder(path=str(tmp_path / "images"), validation=6)
    cell = TrainedOn(source=source, classes=("ship", "frog"), trained=Trained(training=TRAINING))
    assert (cell.name, cell.needs) == ("ship-frog-natural", ())
    value = drained(cell.running(data, {}))
    assert value["clean"] == {"train": 1.0, "test": 1.0}
    _, green, blue = torch.tensor(value["w"]).view(3, 16).sum(dim=1).tolist()
    assert green > 0 > blue
    whole = with_all(source.load(seed=0)).train
    assert whole.index.tolist() == list(range(90))
    with pytest.raises(BadInput, match="has no class 'frogs'; there are: bird, frog, ship"):
        drained(replace(cell, classes=("ship", "frogs")).running(data, {}))


def test_contract_what_cannot_be_meant_is_refused():
    with pytest.raises(BadInput, match="did you mean 8/255"):
        Trained(norm="linf", eps=8, training=TRAINING)
    with pytest.raises(BadInput, match="adversary 'apgd' is not one of pgd, noise"):
        Trained(adversary="apgd", training=TRAINING)
    with pytest.raises(BadInput, match="at least 1 step"):
        Trained(train_steps=0, eps=0.1, training=TRAINING)
    with pytest.raises(BadInput, match=r"training\.ema is 0\.9, but weights are not averaged here"):
        Trained(training=replace(TRAINING, ema=0.9))
