"""What makes a dataclass a component: frozen, keyword-only, and the same again from plain data."""

import json
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from robustscape.config import from_plain, to_plain
from robustscape.types import BadInput


def test_contract_comes_back_from_json(component):
    assert from_plain(json.loads(json.dumps(to_plain(component), allow_nan=False))) == component


def test_contract_is_frozen_and_keyword_only(component):
    assert all(field.kw_only for field in fields(component))
    with pytest.raises(FrozenInstanceError):
        component.anything = 1
    assert replace(component) == component


def test_contract_refuses_an_unknown_field(component):
    with pytest.raises(BadInput, match="has no field 'unheard_of'"):
        from_plain({**to_plain(component), "unheard_of": 1})
