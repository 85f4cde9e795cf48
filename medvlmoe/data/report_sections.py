"""The part of a MIMIC-CXR report that was written before the images were read.

MIMIC's labels come from the report's impression or findings, so those must not reach the model. Kept are sections
on a closed list; everything else is dropped, unknown headings included. Five traps, all of them real in MIMIC-CXR:

1. ``PFI`` is a provisional impression (the official parser files it under history): not on the list.
2. In 54 studies the conclusion stands under a harmless heading or at hand-picked places: no text for these.
3. A conclusion may follow a section after a blank line, without a heading: every section ends at its first blank line.
4. Where no conclusion is found at all, it may be inside a harmless section: no text for such a report.
5. A heading may stand inside a line: a section ends there too.
"""

import re

# Heading in lower case -> our name.
_KEPT = {
    "examination": "Examination", "exam": "Examination", "type of examination": "Examination",
    "indication": "Indication", "clinical indication": "Indication", "reason for exam": "Indication",
    "reason for examination": "Indication", "history": "History", "clinical history": "History",
    "clinical information": "History", "patient history": "History", "technique": "Technique",
    "comparison": "Comparison", "comparisons": "Comparison", "comparison exam": "Comparison",
    "comparison film": "Comparison",
}  # fmt: skip
_ORDER = ("Examination", "Indication", "History", "Technique", "Comparison")

_HEADING = re.compile(r"^[ \t]*([A-Z][A-Z ()/,-]+):", re.MULTILINE)
_CONCLUSION = re.compile(r"impress|mpression|finding|conclusion", re.IGNORECASE)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_HEADING_INSIDE = re.compile(
    r"\b[A-Z][A-Z /()-]{3,}:|\b(?i:findings?|impression|conclusions?|wet ?read|addendum|pfi|recommendations?)\s*:"
)

# Trap 2: study ids from custom_mimic_cxr_rules of the official parser (MIT-LCP/mimic-cxr, txt/section_parser.py).
_CONCLUSION_ELSEWHERE = {
    50913680, 59363654, 59279892, 59768032, 57936451, 50058765, 53356173, 53202765, 50808053, 51966317, 50743547,
    56451190, 59067458, 59215320, 55124749, 54365831, 59087630, 58157373, 56482935, 58375018, 54654948, 55157853,
    51491012, 50525523, 57564132, 59982525, 53488209, 54875119, 50196495, 56579911, 52648681, 59889364, 53514462,
    59505494, 53182247, 51410602, 56412866, 54986978, 59003148, 57150433, 56760320, 59562049, 52674888, 55258338,
    59330497, 52119491, 58235663, 50798377, 54168089, 53071062, 56724958, 54231141, 53607029, 52035334,
}  # fmt: skip


def leak_free_context(report: str, study_id: str) -> str:
    """Examination, indication, history, technique and comparison of a report, without anything seen in its images.

    Args:
        report: the whole text file.
        study_id: MIMIC's study number, without ``s``.

    Returns:
        Such as ``"Indication: Cough. Technique: PA view."``; empty where nothing is safe.
    """
    if study_id.isdecimal() and int(study_id) in _CONCLUSION_ELSEWHERE:
        return ""
    sections = _sections(report)
    concluded = any(_CONCLUSION.search(heading) and text.strip() for heading, text in sections)
    loose_end = bool(sections) and _BLANK_LINE.search(sections[-1][1].strip()) is not None
    if not concluded and not loose_end:
        return ""
    kept: dict[str, str] = {}
    for heading, text in sections:
        name = _KEPT.get(heading.lower())
        content = _first_paragraph(text)
        if name and content and name not in kept:
            kept[name] = content
    return " ".join(f"{name}: {kept[name]}." for name in _ORDER if name in kept)


def _sections(report: str) -> list[tuple[str, str]]:
    """Heading and text of each section; what stands before the first heading is dropped."""
    report = report.replace("\r\n", "\n")
    headings = list(_HEADING.finditer(report))
    starts = [heading.start() for heading in headings] + [len(report)]
    return [
        (" ".join(heading[1].split()), report[heading.end() : following])
        for heading, following in zip(headings, starts[1:], strict=True)
    ]


def _first_paragraph(text: str) -> str:
    first = _BLANK_LINE.split(text, maxsplit=1)[0]
    inside = _HEADING_INSIDE.search(first)
    first = first[: inside.start()] if inside else first
    return " ".join(first.replace("___", " ").split()).rstrip(" .")
