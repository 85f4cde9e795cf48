"""One table for several ways of training on the same sites."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table


def rows_of(summaries: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Header and rows: a site each with its AUC and interval by mode, and the mean over the sites.

    A site with a mean over part of its labels has a second row for it.

    Args:
        summaries: summary by mode, in the order of the columns.
    """
    names = sorted({name for summary in summaries.values() for name in summary["sites"]})
    header = ["site", "test images", *(f"{mode} AUC" for mode in summaries)]
    rows = [header]
    for name in names:
        entries = [summary["sites"].get(name) for summary in summaries.values()]
        count = next((str(entry["n"]) for entry in entries if entry), "")
        rows.append([name, count, *(_cell(entry) for entry in entries)])
        for subset in subsets_of(entries):
            rows.append([f"{name}: {subset}", "", *(_subset_cell(entry, subset) for entry in entries)])
    rows.append(["mean of sites", "", *(_number(summary["mean_auc"]) for summary in summaries.values())])
    return rows


def markdown(rows: list[list[str]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "|".join(["---", *["---:"] * (len(rows[0]) - 1)]) + "|")
    return "\n".join(lines) + "\n"


def print_table(rows: list[list[str]], title: str) -> None:
    """Print the rows on standard output."""
    table = Table(*rows[0], title=title)
    for row in rows[1:-1]:
        table.add_row(*row)
    table.add_section()
    table.add_row(*rows[-1])
    # Piped into a file there is no terminal width to fit.
    console = Console()
    Console(width=None if console.is_terminal else 160).print(table)


def subsets_of(entries: Iterable[dict[str, Any] | None]) -> list[str]:
    """Names of the label subsets that any of a site's results has a mean of."""
    return sorted({name for entry in entries if entry for name in entry.get("subset_auc", {})})


def _subset_cell(entry: dict[str, Any] | None, subset: str) -> str:
    mean = (entry or {}).get("subset_auc", {}).get(subset)
    return "-" if mean is None else f"{_number(mean['auc'])} ({mean['labels_averaged']} labels)"


def _cell(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "no answer"
    if entry["auc"] is None:
        return "undefined"
    interval = entry["auc_ci"]
    return _number(entry["auc"]) + (f" [{_number(interval[0])}, {_number(interval[1])}]" if interval else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
