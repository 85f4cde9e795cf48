"""A MIMIC-CXR report cut into its sections: heading and lines."""

import re
import unicodedata
from dataclasses import dataclass

BOUNDARY = "|".join(
    (
        "impressions?", "findings?", "conclusions?", "addend(?:um|a)", "wet ?reads?", "pfi", "provisional",
        "preliminary", "recommendations?", "notification", "opinion", "interpretation", "final report",
    )
)  # fmt: skip
"""Words that start a section even where no colon follows, as a pattern in lower case."""
BOUNDARY_IN_CAPITALS = BOUNDARY.upper()

# " CHEST, 2 VIEWS:", "Impression:", "**FINDINGS**:", "HISTORY:64F"; not the time in "at 5:30".
_HEADING = re.compile(r"[\W\d_]*([^\W\d_][^:]{0,80}?)[*_\s]*:(?!(?<=\d:)\d)(.*)")
_BARE_BOUNDARY = re.compile(rf"[\W\d_]*((?:{BOUNDARY_IN_CAPITALS})\b|(?i:{BOUNDARY})(?=\s*(?:[;=–—.-]|$)))(.*)")
_FINAL_REPORT = re.compile(r"[\W_]*final report[\W_]*", re.IGNORECASE)
_INVISIBLE = re.compile(r"[\u00ad\u200b-\u200f\u2060\ufeff]")


@dataclass(frozen=True)
class Section:
    """A section of a report.

    Attributes:
        heading: as written, without the colon.
        lines: its text; the first is what follows the heading in its own line, perhaps nothing, at its own column.
    """

    heading: str
    lines: tuple[str, ...]

    def paragraphs(self) -> list[list[str]]:
        """The lines between blank lines; a line without letter or digit is blank. The first may be empty."""
        parts: list[list[str]] = [[]]
        for number, line in enumerate(self.lines):
            if any(character.isalnum() for character in line):
                parts[-1].append(line)
            elif number > 0 or line.strip():  # a heading alone in its line: the text may start in the next
                parts.append([])
        return parts


def report_sections(report: str) -> list[Section]:
    """The sections in their order.

    What stands before the first heading, or before the last line ``FINAL REPORT``, is left out: a wet read or an
    addendum. A line that starts with words and a colon is a heading, in any spelling; so is one that starts with
    IMPRESSION, FINDINGS and the like without a colon.

    Args:
        report: the whole text; line ends, tabs, blanks and colons of any kind.
    """
    lines = _INVISIBLE.sub("", unicodedata.normalize("NFKC", report)).expandtabs().splitlines()
    final = [number for number, line in enumerate(lines) if _FINAL_REPORT.fullmatch(line)]
    found: list[tuple[str, list[str]]] = []
    for line in lines[final[-1] + 1 if final else 0 :]:
        heading = _BARE_BOUNDARY.match(line) or _HEADING.match(line)
        if heading:
            found.append((" ".join(heading[1].split()), [" " * heading.start(2) + heading[2]]))
        elif found:
            found[-1][1].append(line)
    return [Section(heading, tuple(text)) for heading, text in found]
