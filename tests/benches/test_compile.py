"""What compiling costs."""

import pytest

from robustscape.benches.compile import CompileBench
from robustscape.evaluation.subject import drained


@pytest.mark.slow
def test_end_to_end_compiling_takes_time_and_less_from_the_cache():
    result = drained(CompileBench().quick().running())
    cold, warm = (result.notes[f"seconds to compile, {kind}"].median for kind in ("cold", "warm"))
    assert cold > warm > 0
    assert set(result.costs) == {f"epochs until compiling pays, {kind}" for kind in ("cold", "warm")}
