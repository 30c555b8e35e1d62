"""Nearly all of an audit's time is the network's, on the shipped model."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_nine_tenths_of_the_work_are_network_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of this thread's processor time, within one run: what else the machine does takes no part in it."""
    spec = importlib.util.spec_from_file_location("throughput", ROOT / "benchmarks" / "throughput.py")
    assert spec is not None
    assert spec.loader is not None
    throughput = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "throughput", throughput)
    spec.loader.exec_module(throughput)
    monkeypatch.chdir(ROOT)
    limits = [f"--data.{name}_images.init_args.limit=16" for name in ("concept", "reference")]
    options = [f"--config={throughput.RECIPE}", "--data.batch_size=16", "--data.known=0", "--data.prompted=8", *limits]
    found = throughput.measure_profile(options)
    shares = {part["part"]: part["work"] for part in found["parts"]}
    assert shares[throughput.NETWORK] >= 0.9, shares
    assert found["useful_rows"] > 0.9
