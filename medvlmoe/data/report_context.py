"""What a MIMIC-CXR report says that was known before the images were read.

MIMIC's labels come from the report's impression or findings, so those must not reach the model. Kept are sections
on a closed list; everything else is dropped, unknown headings included. Where in doubt a rule drops (docs/text.md):

1. Of a kept section its first paragraph counts. It ends at a blank line, at a line break that is no wrap of a long
   line, at a numbered item, and at a heading inside the line.
2. It also ends where the report's own voice starts ("there is", "is seen", "no evidence of"). The three sections about
   the procedure end at any word that is not on the list of :mod:`.procedure_words`. History and indication may name
   findings that were known before; after their first sentence, each further one must ask something, tell of earlier
   days or name a complaint (:mod:`.report_voice`).
3. A report whose conclusion is not found outside the kept sections gives no text: it may be inside one of them.
4. Nor do the 54 studies for which the official parser had to be told by hand where the conclusion is.
5. After the conclusion only headings in capitals count, only where nothing was kept before it, and nothing after an
   addendum.
"""

import difflib
import re
from collections.abc import Sequence
from functools import lru_cache

from medvlmoe.data.procedure_words import first_unknown
from medvlmoe.data.report_sections import BOUNDARY, BOUNDARY_IN_CAPITALS, Section, report_sections
from medvlmoe.data.report_voice import REPORT_VOICE, first_observation

# Heading in lower case -> our name. The official parser files PFI under history, but it is a provisional impression.
_KEPT = {
    "examination": "Examination", "exam": "Examination", "type of examination": "Examination",
    "indication": "Indication", "indications": "Indication", "idication": "Indication",
    "clinical indication": "Indication", "clinical indications": "Indication", "indication for exam": "Indication",
    "reason for exam": "Indication", "reason for examination": "Indication", "reason for study": "Indication",
    "reason for the exam": "Indication", "reason for the examination": "Indication",
    "reason for this exam": "Indication", "reason for this examination": "Indication",
    "indication/history": "Indication", "history/indication": "Indication",
    "history": "History", "clinical history": "History", "clinical information": "History",
    "patient history": "History", "relevant history": "History", "technique": "Technique",
    "comparison": "Comparison", "comparisons": "Comparison", "comparison exam": "Comparison",
    "comparison film": "Comparison", "reference exam": "Comparison", "comparision": "Comparison",
    "comparsion": "Comparison", "comparrison": "Comparison", "comparisions": "Comparison",
}  # fmt: skip
_ORDER = ("Examination", "Indication", "History", "Technique", "Comparison")
_ABOUT_THE_PROCEDURE = ("Examination", "Technique", "Comparison")

_CONCLUSIONS = ("impression", "findings", "finding", "conclusion", "opinion", "interpretation")
# Headings under which the official parser looks for findings, such as CHEST, PA AND LATERAL.
_VIEWS = re.compile(r"chest|portable|views?\b|\b(?:pa|ap|lateral|frontal)\b|upright|ribs|bone window")
_LATER = re.compile(r"addend|wet ?read|pfi|provisional|preliminary|final report", re.IGNORECASE)
_POINTERS = {"as", "above", "below", "see", "the", "same", "please", "refer", "to", "none", "nothing", "addendum",
             "final", "report", "pending"}  # fmt: skip
_CLOSING = re.compile(r"\b(?:discuss|notif|dictat|sign|communicat|telephon|paged|approved|dr\b)", re.IGNORECASE)

_NARROWEST_WRAP, _WIDEST_WRAP = 60, 100  # columns; MIMIC wraps at 78
_NUMBERED = re.compile(r"\s*(?:\(?\d{1,2}[.)]|[-*•])\s")
_CONNECTIVES = (
    "and|or|with|without|for|of|to|from|in|on|at|after|since|status|who|the|a|an|by|due|presenting|evaluate|eval"
)
_OPEN_END = re.compile(rf"(?:[,/-]|\b(?:{_CONNECTIVES}))$", re.IGNORECASE)
_OPEN_START = re.compile(rf"(?:{_CONNECTIVES})\b")
_HEADING_INSIDE = re.compile(
    rf"\b[A-Z][A-Z0-9 /&()-]{{3,}}:|\b(?:{BOUNDARY_IN_CAPITALS})\b|\b(?i:{BOUNDARY})\s*[:;=–—-]"
    r"|(?:^|[.!?;]\s*)(?i:impression|findings|conclusion|addendum|wet ?read)\b|\s\d{1,2}[.)]\s+[A-Z]"
)
# Study ids from custom_mimic_cxr_rules of the official parser (MIT-LCP/mimic-cxr, txt/section_parser.py).
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
    sections = report_sections(report)
    if not _has_conclusion(sections):
        return ""
    widths = [len(line) for section in sections for line in section.lines if len(line) <= _WIDEST_WRAP]
    width = max([_NARROWEST_WRAP, *widths])
    kept: dict[str, str] = {}
    concluded = kept_before = False
    for section in sections:
        if _is_conclusion(section):
            concluded, kept_before = True, kept_before or bool(kept)
        elif concluded and _LATER.match(section.heading):
            break
        name = _KEPT.get(re.sub(r"\s*/\s*", "/", section.heading.lower()))
        if name is None or name in kept or (concluded and (kept_before or not section.heading.isupper())):
            continue
        content = _known_before(section.paragraphs()[0], name, width)
        if content:
            kept[name] = content
    return " ".join(f"{name}: {kept[name]}." for name in _ORDER if name in kept)


def _has_conclusion(sections: Sequence[Section]) -> bool:
    """Whether what MIMIC's labels were read from stands outside the paragraphs that may be kept."""
    if any(_is_conclusion(section) for section in sections):
        return True
    titles = [section for section in sections if section.heading.isupper() and _VIEWS.search(section.heading.lower())]
    if any(_word_count(section.paragraphs()) > 3 for section in titles):
        return True
    # Without a headed conclusion MIMIC's labels come from what follows the last section's first paragraph.
    if not sections or sections[-1].heading.lower() not in _KEPT:
        return False
    loose = sections[-1].paragraphs()[1:]
    return _word_count([lines for lines in loose if not _CLOSING.search(" ".join(lines))]) > 2


def _is_conclusion(section: Section) -> bool:
    return _names_a_conclusion(section.heading.lower()) and _word_count(section.paragraphs()) > 0


@lru_cache(maxsize=10_000)
def _names_a_conclusion(heading: str) -> bool:
    """Whether a word of it is one of ours, misspelt perhaps: MIMIC has IMPRESSON, IMOERSSION, FINDGINGS and others."""
    words = re.findall(r"[a-z]+", heading)
    return heading not in _KEPT and any(difflib.get_close_matches(word, _CONCLUSIONS, 1, 0.8) for word in words)


def _word_count(paragraphs: Sequence[Sequence[str]]) -> int:
    """Words that say something: "see above" does not."""
    words = re.findall(r"[^\W\d_]+", " ".join(line for lines in paragraphs for line in lines).lower())
    return sum(word not in _POINTERS for word in words)


def _known_before(lines: Sequence[str], name: str, width: int) -> str:
    """The text of a kept section's first paragraph up to where it may speak of the images."""
    text = " ".join(" ".join(_without_new_start(lines, width)).split())
    ends = [_start(_HEADING_INSIDE.search(text)), _start(REPORT_VOICE.search(text))]
    ends.append(first_unknown(text) if name in _ABOUT_THE_PROCEDURE else first_observation(text))
    end = min((found for found in ends if found is not None), default=None)
    if end is not None:  # the whole sentence goes, or the whole text where it has no sentences
        before = f"{text[:end].rstrip()} "
        text = before[: max(before.rfind(mark) for mark in (". ", "! ", "? ", "; ")) + 1]
    return " ".join(text.replace("___", " ").split()).replace(" .", ".").rstrip(" .,;:-/")


def _start(found: re.Match[str] | None) -> int | None:
    """Where the words of a match start: the end of the sentence before them is not one."""
    return None if found is None else found.end() - len(found[0].lstrip(" .!?;"))


def _without_new_start(lines: Sequence[str], width: int) -> list[str]:
    """The first line and those that go on with its sentence; a line that starts something new ends the text."""
    kept = list(lines[:1])
    for line in lines[1:]:
        before = kept[-1].rstrip()
        was_full = len(before) + 1 + len(line.split()[0]) > width
        goes_on = _OPEN_END.search(before) or _OPEN_START.match(line.strip())
        if _NUMBERED.match(line) or not (was_full or goes_on):
            break
        kept.append(line)
    return kept
