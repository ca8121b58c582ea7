"""The folder of a run: what is said when it goes on elsewhere."""

from __future__ import annotations

import warnings
from dataclasses import asdict, replace

import pytest

from robustscape.recipes.digits import digits_at
from robustscape.recipes.folder import warn_of_change
from robustscape.results import device_name, versions
from robustscape.runtime import Runtime
from robustscape.runtime.deciding import Decision
from robustscape.runtime.remembering import processor

CPU = Runtime(device="cpu")
DECIDED = Decision(precision="float32", compile="no", threads=1, processes=1, milliseconds={}, reason="")
OTHER = "AMD EPYC (no instructions)"


def _said(tmp_path, decided, device=None):
    """Return the warnings for a run that was begun under the versions of today."""
    run = replace(digits_at(), runtime=CPU)
    begun = {"versions": versions(), "device": device or device_name(CPU.torch_device())}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        warn_of_change(run, tmp_path, {"provenance": begun, "decided": decided})
    return [str(warning.message) for warning in told]


def test_contract_another_processor_of_the_same_name_goes_on_with_a_warning(tmp_path):
    (said,) = _said(tmp_path, asdict(replace(DECIDED, processor=OTHER)))
    assert f"begun with processor {OTHER} and goes on with {processor()}" in said and "bits may differ" in said


@pytest.mark.parametrize("decided", [asdict(replace(DECIDED, processor=processor())), asdict(DECIDED), None, "no"])
def test_contract_the_same_processor_or_one_that_was_not_noted_is_no_news(tmp_path, decided):
    assert _said(tmp_path, decided) == []


def test_contract_another_device_is_said_once(tmp_path):
    (said,) = _said(tmp_path, asdict(replace(DECIDED, processor=OTHER)), device="an abacus")
    assert "begun with device an abacus" in said
