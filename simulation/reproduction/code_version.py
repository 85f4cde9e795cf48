"""The version of the code that decides a result, as a hash of what it does.

A version number would not do (a checkout changes without it), nor a git commit (an installed wheel has none, and a
commit of the documentation would make every result old). So: the syntax trees of our own modules, without comments
and docstrings, and the versions of the libraries that compute.
"""

import ast
import hashlib
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

import medvlmoe

_PACKAGES = ("medvlmoe", "strategies", "client", "simulation")
_NOT_COMPUTING = ("medvlmoe/analysis", "simulation/reproduction")  # what is made from results, not they themselves
_LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "numpy",
    "scipy",
    "scikit-learn",
    "pillow",
    "opacus",
    "peft",
)


@cache
def code_version() -> str:
    """64 hexadecimal digits; edits of comments, docstrings, layout, tables and figures leave them as they are."""
    root = Path(medvlmoe.__file__).parent.parent
    return hash_sources(root, libraries={name: version(name) for name in _LIBRARIES})


def hash_sources(root: Path, *, libraries: dict[str, str]) -> str:
    """Hash of the sources below a folder and of the libraries' versions.

    Args:
        root: holds the packages.
        libraries: version by name.
    """
    digest = hashlib.sha256()
    digest.update(f"python {'.'.join(platform.python_version_tuple()[:2])} {sorted(libraries.items())}".encode())
    for path in sorted(path for package in _PACKAGES for path in (root / package).rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if not name.startswith(tuple(f"{folder}/" for folder in _NOT_COMPUTING)):
            digest.update(f"\0{name}\0{meaning(path.read_text(encoding='utf-8'))}".encode())
    return digest.hexdigest()


def meaning(source: str) -> str:
    """A module's syntax tree as text, without comments, layout and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and type(first.value.value) is str:
                node.body = node.body[1:]
    return ast.dump(tree)
