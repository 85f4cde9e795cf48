"""The house rule: imports only go down."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {"medvlmoe": 0, "configs": 0, "strategies": 1, "server": 2, "client": 2, "simulation": 3}


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", FLOORS)
def test_imports_only_go_down(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        names = imported(path)
        above = {name for name in names if FLOORS.get(name, -1) >= FLOORS[package] and name != package}
        above -= {"configs"}
        assert not above, f"{path.relative_to(ROOT)} imports {above}"
        if package == "medvlmoe":
            assert "flwr" not in names, f"{path.relative_to(ROOT)} imports flwr"
