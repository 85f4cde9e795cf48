"""How every figure looks and is saved: for print at 183 mm, safe for colour-blind readers, the same bytes each time."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvlmoe import stamps
from medvlmoe.files import write_atomically, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 7.2
"""Inches: two columns of a journal (183 mm)."""
SMALL = 5.5
"""Points: the smallest letters."""

# Okabe and Ito's palette (2008): told apart by readers with any of the common colour vision deficiencies.
BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
GREY, BLACK = "#8A8A8A", "#1A1A1A"

_STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that a figure is the same on every machine
    "font.size": 7,
    "axes.titlesize": 8,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "axes.linewidth": 0.6,
    "axes.edgecolor": BLACK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "svg.fonttype": "path",
    "svg.hashsalt": "medvlmoe",  # else the names of clip paths are random
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@contextmanager
def house_style() -> Iterator[None]:
    """The style, while something is drawn or saved; the process's own settings are as before afterwards."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def new_figure(height: float, width: float = WIDTH) -> "Figure":
    """An empty figure, sizes in inches. It belongs to no window and to no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: "Figure", stem: Path, numbers: Any | None = None, dpi: int = 300) -> list[Path]:
    """Write ``<stem>.svg`` and ``.png``, and ``.json`` with the numbers that are drawn; each file atomically.

    Returns:
        The files.
    """
    files = []
    with house_style():
        for ending, metadata in (("svg", {"Date": None, "Creator": "MedVLMoE"}), ("png", {"Software": "MedVLMoE"})):
            path = stem.with_name(f"{stem.name}.{ending}")
            write_atomically(path, _saver(figure, ending, metadata, dpi))
            files.append(path)
    if numbers is not None:
        path = stem.with_name(f"{stem.name}.json")
        write_json(path, numbers)
        files.append(path)
    return files


def save_picture(figure: "Figure", path: Path, dpi: int = 200) -> None:
    """Write a figure in the format that the path's ending names, atomically.

    Raises:
        CheckpointError: it cannot be written; the command's key ``output`` says where.
    """
    ending = path.suffix.lstrip(".").lower()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(ending, {})
    with house_style():
        write_atomically(path, _saver(figure, ending, metadata, dpi), key="output")


def write_stamps(figure: "Figure", stamped: Sequence[str], note: str = "") -> None:
    """Below the figure: a note, and what its stamps mean; the stamps in red."""
    letters = int(21.5 * figure.get_figwidth())  # that fit into a line
    paragraphs = [*note.split("\n"), *stamps.lines(stamped)]
    lines = [line for paragraph in paragraphs for line in textwrap.wrap(paragraph, letters)]
    if lines:
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=SMALL, color=BLACK, linespacing=1.4)
    if stamps.in_order(stamped):
        figure.suptitle("  ".join(stamps.in_order(stamped)), x=0.99, ha="right", fontsize=7, weight="bold",
                        color=VERMILION)  # fmt: skip


def _saver(figure: "Figure", ending: str, metadata: dict[str, Any], dpi: int) -> Any:
    return lambda temporary: figure.savefig(temporary, format=ending, metadata=metadata, dpi=dpi)
