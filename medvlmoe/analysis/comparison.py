"""One table for several ways of training on the same sites."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from medvlmoe import stamps

TEXT_ONLY = "text-only AUC"


def rows_of(summaries: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Header and rows: a site each with its AUC and interval by mode, and the mean over the sites.

    A site with a mean over part of its labels has a second row for it.

    Args:
        summaries: summary by mode, in the order of the columns.
    """
    names = sorted({name for summary in summaries.values() for name in summary["sites"]})
    text_only = {name: text_only_cell(name, summaries) for name in names}
    audited = any(text_only.values())
    header = ["site", "test images", *([TEXT_ONLY] if audited else []), *(f"{mode} AUC" for mode in summaries)]
    blank = [""] * (len(header) - 1 - len(summaries))
    rows = [header]
    for name in names:
        entries = [summary["sites"].get(name) for summary in summaries.values()]
        count = next((str(entry["n"]) for entry in entries if entry), "")
        beside = [text_only[name] or "-"] if audited else []
        rows.append([name, count, *beside, *(_cell(entry) for entry in entries)])
        for subset in subsets_of(entries):
            rows.append([f"{name}: {subset}", *blank, *(_subset_cell(entry, subset) for entry in entries)])
    means = (marked(_number(summary["mean_auc"]), [summary]) for summary in summaries.values())
    rows.append(["mean of sites", *blank, *means])
    return rows


def stamps_of(summaries: dict[str, dict[str, Any]]) -> list[str]:
    """The stamps of several ways of training; a table of them bears all."""
    return stamps.in_order(stamp for summary in summaries.values() for stamp in summary.get("stamps", []))


def markdown(rows: list[list[str]], stamped: Sequence[str] = ()) -> str:
    """The rows as a Markdown table, below what its stamps mean."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + "|".join(["---", *["---:"] * (len(rows[0]) - 1)]) + "|")
    above = [f"**{line.partition(':')[0]}**:{line.partition(':')[2]}\n" for line in stamps.lines(stamped)]
    return "\n".join([*above, *lines]) + "\n"


def print_table(rows: list[list[str]], title: str, stamped: Sequence[str] = ()) -> None:
    """Print the rows on standard output, below them what the stamps mean."""
    table = Table(*rows[0], title=" ".join([*stamped, title]), caption="\n".join(stamps.lines(stamped)) or None)
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
    return "-" if mean is None else marked(f"{_number(mean['auc'])} ({mean['labels_averaged']} labels)", [entry])


def _cell(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "no answer"
    if entry["auc"] is None:
        return "undefined"
    return marked(_with_interval(entry["auc"], entry["auc_ci"]), [entry])


def marked(text: str, entries: Iterable[dict[str, Any] | None]) -> str:
    """A number with LEAKY behind it if anything that it comes from bears that stamp."""
    leaky = any(stamps.LEAKY in (entry or {}).get("stamps", []) for entry in entries)
    return f"{text} {stamps.LEAKY}" if leaky else text


def text_only_cell(name: str, summaries: dict[str, dict[str, Any]]) -> str | None:
    """AUC of the text alone, and a word where the leak audit found something; ``None`` without an audit."""
    entries = (summary["sites"].get(name) for summary in summaries.values())
    entry = next((entry for entry in entries if entry and "leak_audit" in entry), None)
    if entry is None:
        return None
    verdict = entry["leak_audit"]["verdict"]
    number = _with_interval(entry["text_only_auc"], entry.get("text_only_auc_ci"))
    return number + (f" ({verdict})" if verdict in ("leaks", "suspicious") else "")


def _with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    return _number(value) + (f" [{_number(interval[0])}, {_number(interval[1])}]" if interval else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
