"""A federation of two hospitals, as a file."""

from collections.abc import Callable
from pathlib import Path

import pytest

from medvlmoe.command_line import run

FEDERATION = """\
name: lungs
hosts: [fl.example.org, 192.0.2.7]
hospitals: [{name: north}, {name: south}]
"""


@pytest.fixture
def federation_file(tmp_path: Path) -> Path:
    path = tmp_path / "federation.yaml"
    path.write_text(FEDERATION)
    return path


@pytest.fixture
def provision(federation_file: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs ``medvlmoe provision`` and gives what it printed; with ``code`` it must end with that exit code."""

    def call(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        assert run(["provision", str(federation_file), *arguments]) == code, capsys.readouterr().err
        printed = capsys.readouterr()
        return printed.out if code == 0 else printed.err

    return call
