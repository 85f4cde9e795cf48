"""The server's memory does not grow with the sites beyond what a server was promised to need."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "server_memory.py"


@pytest.mark.long
@pytest.mark.alone
def test_the_server_app_holds_no_more_than_two_and_a_half_models() -> None:
    """A real SuperLink, SuperNodes and a ServerApp, with its imports, for a model of 200 MB; two rounds."""
    command = [sys.executable, str(BENCHMARK), "--sites", "3"]
    table = subprocess.run(command, check=True, capture_output=True, text=True, timeout=1800).stdout
    found = re.search(r"^\| 3 \| (\d+) MB \| (\d+) MB = ", table, re.MULTILINE)
    assert found is not None, table
    model, peak = map(int, found.groups())
    assert model > 200
    assert peak < 2.5 * model, table
