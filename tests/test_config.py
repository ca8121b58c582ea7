"""Components as plain data and back, and components by name."""

import json
from dataclasses import replace

import numpy as np
import pytest

from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.losses import Margin
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.config import ROOMS, files, from_plain, members, named, nearest, presets, protocol_of, to_plain
from robustscape.data.mnist import MNIST
from robustscape.evaluation.result import Number
from robustscape.landscape.histograms import WeightResult
from robustscape.objectives.at import AT
from robustscape.recipes.digits import digits_at_awp
from robustscape.runtime import Runtime
from robustscape.training.log import EpochLog, Tracked
from robustscape.types import Attack, BadInput, Provenance, Threat, WeightPerturbation


def provenance(settings):
    return Provenance(
        created="2024-01-01T00:00:00+00:00",
        seconds=1.5,
        versions={"torch": "2"},
        commit="",
        device="cpu",
        precision="float32",
        threads=1,
        seed=0,
        model="",
        data="",
        settings=settings,
    )


def through_json(value):
    return from_plain(json.loads(json.dumps(to_plain(value), allow_nan=False)))


def test_contract_a_whole_run_comes_back_from_json():
    run = digits_at_awp()
    assert through_json(run) == run
    changed = replace(run, weights=None, data=MNIST(classes=(3, 7), validation=0.1), seed=5)
    assert through_json(changed) == changed
    assert to_plain(run.objective.attack)["type"] == "attacks.pgd:PGD"


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 0.1, 1.0])
def test_contract_non_finite_floats_come_back(value):
    number = Number(value=value, low=-1, high=2, n=3)
    assert through_json(number) == number


def test_contract_nan_none_tuples_and_dicts_come_back():
    assert np.isnan(through_json(Number(value=float("nan"), low=0, high=1, n=1)).value)
    tracked = Tracked(n=10, clean_accuracy=0.5, robust_accuracy=None, clean_loss=1, robust_loss=None)
    values = {f: 1.0 for f in ("lr", "gradient_norm", "weight_norm", "distance", "seconds", "tracking_seconds")}
    log = EpochLog(
        **values,
        epoch=1,
        step=2,
        eps=None,
        loss={"total": 1.0},
        tracked={"train": tracked},
        examples_per_second=3.0,
        selected=True,
    )
    assert through_json(log) == log


def test_contract_arrays_come_back():
    result = WeightResult(
        layers=("a",),
        edges=np.array([[0.0, 0.5, np.inf]]),
        counts=np.array([[1, 2]]),
        norm=np.array([np.nan]),
        provenance=provenance(None),
    )
    back = through_json(result)
    assert back.layers == ("a",)
    np.testing.assert_array_equal(back.edges, result.edges)
    np.testing.assert_array_equal(back.counts, result.counts)
    np.testing.assert_array_equal(back.norm, result.norm)


def test_contract_settings_of_a_provenance_stay_plain_data():
    """A result of another machine is read without making its components: they may not fit this one."""
    plain = to_plain(provenance({"type": "runtime:Runtime", "device": "no such device"}))
    assert from_plain(plain).settings == {"type": "runtime:Runtime", "device": "no such device"}


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "os.path:join",
        "..os:system",
        "subprocess:Popen",
        "attacks.pgd:torch",
        "attacks.pgd:PGD.at",
        "attacks.pgd:__name__",
        "attacks.pgd:ThreatModel",
        "attacks.nothing:PGD",
        "results:save",
        "__main__:X",
        "",
        ":",
    ],
)
def test_contract_only_components_of_robustscape_are_made(name):
    with pytest.raises(BadInput):
        from_plain({"type": name})


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("step", 3, "no field 'step' .did you mean steps"),
        ("steps", "ten", "steps: 'ten' is not a whole number"),
        ("steps", True, "steps: True is not a whole number"),
        ("step_size", "far", "step_size"),
        ("start", "everywhere", "start: 'everywhere' is not one of 'uniform'"),
        ("threat", {"type": "attacks.threat:ThreatModel", "eps": 8}, "did you mean 8/255"),
    ],
)
def test_contract_wrong_fields_are_named(field, value, words):
    with pytest.raises(BadInput, match=words):
        from_plain({"type": "attacks.pgd:PGD", field: value})


def test_contract_a_missing_field_is_named():
    with pytest.raises(BadInput, match="'n'"):
        from_plain({"type": "evaluation.result:Number", "value": 1.0, "low": 0.0, "high": 1.0})


@pytest.mark.parametrize("protocol", ROOMS)
def test_contract_every_member_of_a_room_is_found_by_its_file_and_comes_back(protocol):
    found = members(protocol)
    assert found
    assert set(found) <= set(files(ROOMS[protocol]))
    for file in found:
        made = named(protocol, file)
        assert type(made) is found[file]
        assert through_json(made) == made


def test_contract_a_part_of_a_room_is_no_member():
    assert "threat" not in members("Attack")
    assert "losses" not in members("Attack")


def test_contract_presets_are_named_after_a_dot():
    assert "wong" in presets(FGSM)
    assert named("Attack", "fgsm.wong") == FGSM.wong()
    with pytest.raises(BadInput, match=r"no preset 'wang' .did you mean wong"):
        named("Attack", "fgsm.wang")
    with pytest.raises(BadInput, match="did you mean awp"):
        named("WeightPerturbation", "apw")


def test_contract_parts_go_over_to_the_new_component_and_numbers_do_not():
    threat = ThreatModel(norm="l2", eps=0.5)
    old = PGD(threat=threat, steps=99, loss=Margin())
    new = named("Attack", "fgsm", old=old)
    assert new == FGSM(threat=threat, loss=Margin())
    assert named("Attack", "pgd", old=new).steps == PGD().steps
    assert named("Objective", "natural", old=AT(attack=old)) == named("Objective", "natural")
    assert named("Objective", "at", old=AT(attack=old)).attack == old


def test_contract_the_room_of_a_field_is_read_from_its_annotation():
    assert protocol_of(Attack) == "Attack"
    assert protocol_of(WeightPerturbation | None) == "WeightPerturbation"
    assert [protocol_of(kind) for kind in (float, Threat, int | None, Runtime, dict[str, Attack])] == [None] * 5


def test_contract_nearest_says_nothing_where_nothing_is_near():
    assert nearest("pdg", ["pgd", "fgsm"]) == " (did you mean pgd?)"
    assert nearest("zzz", ["pgd", "fgsm"]) == ""
