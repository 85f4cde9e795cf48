"""The text files of a kit: each file below ``server/`` and ``hospital/`` is one of that kit, filled in by Jinja."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_FOLDER = Path(__file__).parent


def rendered(kit: str, values: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    """Relative path and text of every template of a kit (``server`` or ``hospital``)."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER / kit), undefined=StrictUndefined, keep_trailing_newline=True
    )
    for name in sorted(environment.list_templates()):
        yield Path(name), environment.get_template(name).render(values)
