"""A component as a command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.losses import CrossEntropy, Margin
from robustscape.attacks.noise import Noise
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.cli.arguments import field_docs, number, number_words, parse
from robustscape.cli.components import SPREAD
from robustscape.data.augment import CropFlip
from robustscape.data.mnist import MNIST
from robustscape.objectives.at import AT
from robustscape.objectives.natural import Natural
from robustscape.training.schedules.constant import Constant
from robustscape.training.schedules.cosine import Cosine
from robustscape.types import Attack, BadInput, DataSource, Objective, Schedule, WeightPerturbation
from robustscape.weights.awp import AWP


@dataclass(frozen=True, kw_only=True)
class Part:
    """The parts of a stand-in run.

    Attributes:
        objective: What is minimised.
        data: The images.
        weights: What moves the weights.
        lr: How the rate falls,
            in two lines.
        augment: What is done to images.
        ema: A decay in [0, 1).
        seed: A seed.
    """

    objective: Objective = field(default_factory=AT)
    data: DataSource = field(default_factory=MNIST)
    weights: WeightPerturbation | None = None
    lr: Schedule = field(default_factory=Constant)
    augment: CropFlip | None = None
    ema: float | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A stand-in command.

    Attributes:
        part: The run.
        several: Attacks by name.
        out: A folder.
        size: A length in pixel units.
    """

    part: Part = field(default_factory=Part, metadata=SPREAD)
    several: dict[str, Attack] = field(default_factory=lambda: {"first": PGD(), "second": FGSM()}, metadata=SPREAD)
    out: Path | None = None
    size: float = 8 / 255


@dataclass(frozen=True, kw_only=True)
class Many:
    """A stand-in for what holds several of a room.

    Attributes:
        attacks: Attacks.
    """

    attacks: tuple[Attack, ...] = ()


def many(*arguments: str, default: Many | None = None) -> tuple[Attack, ...]:
    return parse(default or Many(), arguments, program="test", description="Only a test.").attacks


def run(*arguments: str, default: Whole | None = None) -> Whole:
    return parse(default or Whole(), arguments, program="test", description="Only a test.")


def test_contract_nothing_given_changes_nothing():
    assert run() == Whole()


def test_contract_a_field_has_the_options_of_the_component_that_stands_there():
    made = run("--objective.attack.threat.eps", "0.2", "--objective.attack.steps=3", "--seed", "7", "--out", "x/y")
    attack = made.part.objective.attack
    assert attack == PGD(threat=ThreatModel(eps=0.2), steps=3)
    assert (made.part.seed, made.out) == (7, Path("x/y"))


def test_contract_hyphens_and_underscores_are_the_same():
    attack = PGD(step_size=0.01)
    assert run("--objective.attack.step-size", "0.01").part.objective.attack == attack
    assert run("--objective.attack.step_size", "0.01").part.objective.attack == attack


def test_contract_fractions_are_numbers_also_where_none_is_allowed():
    assert run("--size", "4/255").size == 4 / 255
    assert run("--ema", "999/1000").part.ema == 0.999
    assert run("--objective.attack.threat.eps", "16/255").part.objective.attack.threat.eps == 16 / 255
    assert run("--ema", "none", default=Whole(part=Part(ema=0.5))).part.ema is None


@pytest.mark.parametrize("text", ["8/", "/255", "1/0", "x", "1/2/3", "nan", "", "8:255"])
def test_contract_what_is_no_number_is_refused(text, capsys):
    with pytest.raises(ValueError, match="is not a number"):
        number(text)
    with pytest.raises(SystemExit) as stop:
        run("--size", text)
    assert stop.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (8 / 255, "8/255"),
        (2 / 255, "2/255"),
        (-8 / 255, "-8/255"),
        (0.2, "0.2"),  # 51/255, but nobody says so
        (0.3, "0.3"),
        (5e-4, "0.0005"),
        (1e-9, "1e-09"),
        (1.0, "1"),
        (1.25, "1.25"),
        (0.0, "0"),
        (float("inf"), "inf"),
    ],
)
def test_closed_form_numbers_are_shown_as_people_write_them(value, words):
    assert number_words(value) == words
    assert number(words) == pytest.approx(value, abs=1e-12)


def test_contract_a_name_puts_a_component_in_place():
    assert run("--weights", "awp", "--weights.gamma", "0.01").part.weights == AWP(gamma=0.01)
    assert run("--weights=awp", "--weights.gamma=0.01").part.weights == AWP(gamma=0.01)
    assert run("--weights.gamma", "0.01", "--weights", "awp").part.weights == AWP(gamma=0.01)
    assert run("--weights", "awp.official").part.weights == AWP.official()
    assert run("--weights", "none", default=Whole(part=Part(weights=AWP()))).part.weights is None
    assert run("--lr", "cosine").part.lr == Cosine()
    assert run("--data", "mnist", "--data.classes", "0", "1").part.data == MNIST(classes=(0, 1))
    assert run("--weights", "rwp", "--weights", "awp").part.weights == AWP()


def test_contract_names_within_names_go_in_any_order():
    natural = Whole(part=Part(objective=Natural()))
    expected = AT(attack=FGSM(threat=ThreatModel(eps=0.25)))
    words = [("--objective", "at"), ("--objective.attack", "fgsm"), ("--objective.attack.threat.eps", "1/4")]
    for order in (words, words[::-1], [words[1], words[2], words[0]]):
        assert run(*(word for pair in order for word in pair), default=natural).part.objective == expected


def test_contract_the_parts_of_what_stood_there_are_kept():
    threat = ThreatModel(norm="l2", eps=0.5)
    before = Whole(part=Part(objective=AT(attack=PGD(threat=threat, steps=40))))
    assert run("--objective.attack", "noise", default=before).part.objective.attack == Noise(threat=threat)
    assert run("--objective", "at", default=before).part.objective == before.part.objective


def test_contract_function_like_components_are_chosen_among_those_of_their_file():
    attack = PGD(loss=Margin())
    assert run("--objective.attack.loss", "margin").part.objective.attack == attack
    assert run("--objective.attack.loss", "cross-entropy").part.objective.attack == PGD(loss=CrossEntropy())
    with pytest.raises(BadInput, match="did you mean margin"):
        run("--objective.attack.loss", "margn")


def test_contract_a_field_typed_by_one_dataclass_or_none_is_turned_on():
    assert run("--augment", "crop_flip", "--augment.pad", "2").part.augment == CropFlip(pad=2)
    assert run("--augment", "none", default=Whole(part=Part(augment=CropFlip()))).part.augment is None


def test_contract_components_in_a_dictionary_have_options_too():
    made = run("--first.steps", "3", "--second.threat.eps", "0.5", "--first.loss", "margin")
    assert made.several == {"first": PGD(steps=3, loss=Margin()), "second": FGSM(threat=ThreatModel(eps=0.5))}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--weights", "apw"), "no WeightPerturbation called 'apw' .did you mean awp"),
        (("--weights",), "--weights needs a name, one of amp"),
        (("--weights", "--seed", "1"), "--weights needs a name"),
        (("--weights", "awp.offical"), "no preset 'offical' .did you mean official"),
        (("--data", "none"), "--data cannot be none; there are: "),
        (("--objective.attack.threat.eps", "8"), "did you mean 8/255"),
        (("--objective.attack.steps", "0"), "at least 1 step"),
    ],
)
def test_contract_what_a_user_gets_wrong_is_one_sentence(arguments, words):
    with pytest.raises(BadInput, match=words) as error:
        run(*arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("arguments", [("--sed", "1"), ("--seed", "x"), ("--objective.attack.start", "nowhere")])
def test_contract_what_cannot_be_parsed_stays_in_the_box(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert "For full helptext" in err  # the last line of tyro's box
    assert "Traceback" not in err
    assert arguments[0] in err


def test_contract_help_explains_every_field_with_its_default(capsys):
    with pytest.raises(SystemExit) as stop:
        run("--help")
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in (
        "How the rate falls, in two lines. (default: constant)",
        "A length in pixel units. (default: 8/255)",
        "A decay in [0, 1). (default: none)",
        "What moves the weights. (default: none)",
        "Radius in pixel units, where 1 is the whole range: 8/255, not 8.",
        "--objective {",
        "--weights {amp,amp.official,asam,",
        "What is minimised. AT: ",
    ):
        assert words in text
    assert "``" not in text


def test_contract_documentation_of_fields_comes_from_the_attributes_section():
    docs = field_docs(Part)
    assert docs["lr"] == "How the rate falls, in two lines."
    assert list(docs) == ["objective", "data", "weights", "lr", "augment", "ema", "seed"]
    assert field_docs(int) == {}


def test_contract_a_callable_without_configuration_stays_as_it_is():
    @dataclass(frozen=True, kw_only=True)
    class Plain:
        """A stand-in with a plain function."""

        function: Callable[[float], float] = abs
        n: int = 1

    assert parse(Plain(), ["--n", "2"], program="test", description="") == Plain(n=2)


def test_end_to_end_several_of_a_protocol_take_their_names():
    @dataclass(frozen=True, kw_only=True)
    class Several:
        """A stand-in.

        Attributes:
            attacks: Some attacks.
        """

        attacks: tuple[Attack, ...] = ()

    def given(*words):
        return parse(Several(attacks=(Noise(),)), words, program="p", description="d").attacks

    assert given() == (Noise(),)
    assert given("--attacks", "pgd,fgsm") == (PGD(), FGSM())
    assert given("--attacks", "fgsm", "noise") == (FGSM(), Noise())
    assert given("--attacks", "none") == ()
    with pytest.raises(BadInput, match="pgdd"):
        given("--attacks", "pgdd")


def test_contract_each_of_several_has_options_under_its_name():
    pgd, fgsm = PGD(threat=ThreatModel(eps=0.2), steps=3), FGSM()
    options = ("--fgsm.threat.eps", "0.5", "--pgd.steps=3", "--pgd.threat.eps", "0.2")
    there = (pgd, FGSM(threat=ThreatModel(eps=0.5)))
    assert many(*options, "--attacks", "pgd,fgsm") == many("--attacks", "pgd", "fgsm", *options) == there
    assert many("--pgd.loss", "margin", default=Many(attacks=(pgd, fgsm))) == (replace(pgd, loss=Margin()), fgsm)
    assert many("--attacks=none", default=Many(attacks=(fgsm,))) == many() == ()
    two = Many(attacks=(pgd, PGD()))
    assert many(default=two) == two.attacks  # of one name: kept, without options
    for refused, words in ((("--attacks",), "needs a name"), (("--attacks", "pgdd"), "did you mean pgd")):
        with pytest.raises(BadInput, match=words):
            many(*refused)


def test_contract_options_of_what_does_not_stand_there_are_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        many("--attacks", "pgd", "--fgsm.threat.eps", "0.5")
    assert stop.value.code == 2 and "--fgsm.threat.eps" in capsys.readouterr().err
