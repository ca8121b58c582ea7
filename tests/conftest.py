"""What holds for every test."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _cache_of_their_own(tmp_path_factory):
    """Tests neither read nor write what trials on this machine have found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _drawn_alike():
    """What a test draws from torch's generator does not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def fake():
    """The functions that make run directories without any training."""
    path = Path(__file__).parent / "report" / "fake_runs.py"
    spec = importlib.util.spec_from_file_location("fake_runs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A Ray cluster of two CPUs on this machine, one for all tests: its start takes seconds."""
    ray = pytest.importorskip("ray")
    from robustscape.runtime.cluster import joined

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # Ray keeps a token there
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    with joined("local") as found:
        yield found
    ray.shutdown()


def pytest_collection_modifyitems(items):
    """A way from one end to the other takes its time: such tests are left to `make test`, as those marked slow are."""
    for item in items:
        if item.name.startswith("test_end_to_end"):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Where CI is set, a test that is skipped because there is no browser fails: the report was not looked at."""
    report = yield
    if report.skipped and os.environ.get("CI") and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if "chromium" in reason.lower():
            report.outcome, report.longrepr = "failed", f"{reason}: in CI the browser must be there"
    return report
