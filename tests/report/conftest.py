import pytest
from synthetic_runs import world


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The calibration experiment in synthetic runs; read only."""
    return world(tmp_path_factory.mktemp("runs"), count=24, pictures=2)
