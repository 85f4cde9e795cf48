"""What ``medvlmoe data check`` prints about one site."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from medvlmoe.data.check.counts import VALUES, PartCounts
from medvlmoe.data.check.differences import SIZES, beside, differences
from medvlmoe.data.check.site import WHOLE, SiteCheck

_SHOWN = 20  # problems and lines of each; the rest is counted, and in the file of report=


def print_check(check: SiteCheck, console: Console) -> None:
    """Two tables of counts, facts, differences and problems."""
    if check.found.parts:
        console.print(_sizes(check))
        labels = _labels(check)
        if labels is not None:
            console.print(labels)
    facts = {name: f"{count:,}" for name, count in check.found.facts.items()} | check.notes
    if facts:
        console.print(escape("; ".join(f"{name}: {value}" for name, value in facts.items())), style="dim")
    found = differences(check)
    for line in found:
        console.print(f"  [red]differs[/] {escape(line)}")
    for problem in check.problems.found[:_SHOWN]:
        lines = ", ".join(map(str, problem.lines[:_SHOWN]))
        more = f" … and {len(problem.lines) - _SHOWN:,} more" if len(problem.lines) > _SHOWN else ""
        where = f" line{'s' if len(problem.lines) > 1 else ''} {lines}{more}" if lines else ""
        console.print(f"  [red]malformed[/] {escape(f'{problem.path}{where}: {problem.text}')}")
    rest = sum(problem.count for problem in check.problems.found[_SHOWN:])
    if rest:
        console.print(f"  [red]malformed[/] … and {rest:,} more rows")
    console.print(f"[bold]{escape(check.name)}: {escape(verdict(check))}[/]\n")


def verdict(check: SiteCheck) -> str:
    """The site in a few words."""
    differing, malformed = len(differences(check)), check.problems.count
    if not differing and not malformed:
        return "as published" if check.published else "whole; nothing is published to compare it with"
    return f"differences: {differing:,}, malformed rows or files: {malformed:,}"


def _sizes(check: SiteCheck) -> Table:
    title = f"{check.name}: {check.root}" + (" (found = published)" if check.published else "")
    columns = ["part", *SIZES, *(["images on disk"] if check.on_disk else [])]
    table = Table(*columns, title=escape(title), title_justify="left")
    for part, counts in check.found.parts.items():
        published = check.published.parts.get(part, PartCounts()) if check.published else PartCounts()
        cells = [beside(getattr(counts, size), getattr(published, size)) for size in SIZES]
        if check.on_disk:
            cells.append(beside(check.on_disk[part], counts.images) if part in check.on_disk else "")
        table.add_row(escape(part), *map(_marked, cells))
    return table


def _labels(check: SiteCheck) -> Table | None:
    columns: list[tuple[str, str, PartCounts, PartCounts]] = []
    for part, counts in check.found.parts.items():
        published = check.published.parts.get(part, PartCounts()) if check.published else PartCounts()
        if part == WHOLE and len(check.found.parts) > 1 and not published.labels:
            continue
        values = list(published.labels) or [value for value in VALUES if any(counts.labels.get(value, {}).values())]
        columns += [(part, value, counts, published) for value in values]
    if not columns:
        return None
    table = Table("label", *(f"{part}\n{value}" for part, value, _, _ in columns))
    for label in dict.fromkeys(name for _, value, counts, _ in columns for name in counts.labels[value]):
        cells = [
            beside(
                counts.labels[value].get(label),
                published.labels.get(value, {}).get(label),
                at_least=published.at_least,
            )
            for _, value, counts, published in columns
        ]
        table.add_row(escape(label), *map(_marked, cells))
    return table


def _marked(cell: str) -> str:
    return f"[red]{cell}[/]" if "≠" in cell or "<" in cell else cell
