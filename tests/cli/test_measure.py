"""What `measure` writes and says of a result."""

from dataclasses import replace

import pytest

from robustscape.cli.measure import _cares, _file, _numbers
from robustscape.landscape.directions.family import Facts
from robustscape.results import save


@pytest.fixture
def lines(fake):
    return fake.slices(0.1, 1.0)


def test_contract_what_is_no_number_is_said(lines):
    assert _cares(lines) == []
    wide = lines.robust_loss > lines.robust_loss.min()
    found = _cares(replace(lines, overflowed=wide, facts=Facts(along="hessian", converged=(False, True))))
    assert found[0] == "eigenvalues that did not converge: eigenvector 1"
    assert f"overflows at {wide.sum()} of {wide.size} points" in found[1]


def test_contract_estimates_are_shown_else_the_main_numbers(fake, lines):
    assert "robust 0.3 [" in _numbers(fake.flatness(0.3, 0.1))
    assert _numbers(lines).startswith(": Mean rise along slices") and _numbers(lines).endswith(" nats")


def test_contract_the_result_of_another_split_stays(tmp_path, lines):
    plain, behind = (tmp_path / "results" / f"slices-last{name}.json" for name in ("", "-train"))
    assert _file(tmp_path, "slices-last", "train") == plain
    save(lines, plain)
    assert _file(tmp_path, "slices-last", lines.split) == plain
    assert lines.split == "test" and _file(tmp_path, "slices-last", "train") == behind
    plain.write_text("cut sh")
    assert _file(tmp_path, "slices-last", "train") == plain
