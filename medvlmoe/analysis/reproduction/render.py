"""A document as Markdown, LaTeX, CSV and HTML."""

import csv
import io
import re
from pathlib import Path

from medvlmoe import stamps
from medvlmoe.analysis.comparison import markdown
from medvlmoe.analysis.reproduction.document import Document, Sheet
from medvlmoe.files import write_text

_LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
          "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "±": r"$\pm$",
          "−": "$-$", "–": "--"}  # fmt: skip


def write_document(document: Document, folder: Path) -> list[Path]:
    """Write ``<name>.md``, ``.tex``, ``.csv`` and ``.html``, each atomically.

    Returns:
        The files.
    """
    files = {"md": as_markdown, "tex": as_latex, "csv": as_csv, "html": as_html}
    paths = []
    for ending, render in files.items():
        path = folder / f"{document.name}.{ending}"
        write_text(path, render(document))
        paths.append(path)
    return paths


def as_markdown(document: Document) -> str:
    """Headings, sentences, tables, numbered footnotes."""
    parts = [f"# {document.title}\n"]
    parts += [f"**{line.partition(':')[0]}**:{line.partition(':')[2]}\n" for line in stamps.lines(document.stamps)]
    parts += [f"{sentence}\n" for sentence in document.lead]
    for sheet in document.sheets:
        parts.append(f"## {sheet.title}\n")
        parts += [f"{note}\n" for note in sheet.notes]
        parts.append(markdown([sheet.header, *sheet.rows]))
    if document.failures:
        parts += ["## Failed runs\n", "\n".join(f"- {line}" for line in document.failures) + "\n"]
    if document.footnotes:
        notes = "\n".join(f"[{number}] {text}\n" for number, text in enumerate(document.footnotes, start=1))
        parts += ["## Notes on the paper\n", notes]
    return "\n".join(parts)


def as_latex(document: Document) -> str:
    """``table`` environments for a document with the package ``booktabs``; needs no other file."""
    lines = [f"% {document.title}. Needs \\usepackage{{booktabs,graphicx}}."]
    lines += [f"% {line}" for line in stamps.lines(document.stamps)]
    for number, sheet in enumerate(document.sheets):
        lines += _latex_sheet(document, sheet, first=number == 0)
    if document.failures:
        lines += [r"\paragraph{Failed runs.}", *(f"{_tex(line)}\\\\" for line in document.failures)]
    if document.footnotes:
        lines += [r"\paragraph{Notes on the paper.}", r"\begin{enumerate}"]
        lines += [rf"\item {_tex(text)}" for text in document.footnotes]
        lines.append(r"\end{enumerate}")
    return "\n".join(lines) + "\n"


def as_csv(document: Document) -> str:
    """One line a data set and model with every number in full; empty where there is none."""
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=list(document.records[0]) if document.records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(document.records)
    return file.getvalue()


def as_html(document: Document) -> str:
    """One page that needs no other file."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medvlmoe.analysis", "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    lines = stamps.lines(document.stamps)
    return environment.get_template("reproduction.html").render(document=document, stamp_lines=lines)


def _latex_sheet(document: Document, sheet: Sheet, *, first: bool) -> list[str]:
    caption = [
        f"{document.title}." if first else "",
        f"{sheet.title}.",
        *sheet.notes,
        *(document.lead if first else []),
    ]
    stamped = " ".join(document.stamps)
    if stamped:
        caption.insert(0, f"{stamped}.")
    lines = [
        r"\begin{table*}[t]",
        rf"\caption{{{_tex(' '.join(part for part in caption if part))}}}",
        r"\centering",
        r"\resizebox{\textwidth}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (len(sheet.header) - 1)}}}",
        r"\toprule",
        " & ".join(_tex(cell) for cell in sheet.header) + r" \\",
        r"\midrule",
        *(" & ".join(_tex(cell) for cell in row) + r" \\" for row in sheet.rows),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table*}",
    ]
    return lines


def _tex(text: str) -> str:
    escaped = "".join(_LATEX.get(letter, letter) for letter in text)
    return re.sub(r" \[(\d+)\](?!,)", r"\\textsuperscript{\1}", escaped)
