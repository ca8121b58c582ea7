import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def fake():
    """The functions that make run directories without any training."""
    path = Path(__file__).parents[1] / "report" / "fake_runs.py"
    spec = importlib.util.spec_from_file_location("fake_runs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
