import pytest

from medvlmoe.data.report_sections import report_sections


def headings(report: str) -> list[str]:
    return [section.heading for section in report_sections(report)]


@pytest.mark.parametrize(
    "line",
    [
        "IMPRESSION:", "Impression:", "impression :", "   IMPRESSION:  ", "\tIMPRESSION:", "**IMPRESSION:**",
        "# IMPRESSION:", "1. IMPRESSION:", "IMPRESSION\uff1a", "\u200bIMPRESSION:", "\u00a0IMPRESSION:",
        "IMPRESSION", "Impression",
        "IMPRESSION -", "Impression.", "IMPRESSION:3 cm", "IMPRESSION Effusion",
    ],
)  # fmt: skip
def test_a_heading_in_any_spelling(line):
    assert [heading.lower() for heading in headings(f" INDICATION: Cough\n{line}\n text\n")] == [
        "indication",
        "impression",
    ]


@pytest.mark.parametrize("line", ["CHEST, 2 VIEWS:", "PA & LATERAL:", "CHEST (PORTABLE AP):", "F/U:", "Naïve réading:"])
def test_any_words_with_a_colon_are_a_heading(line):
    assert headings(f" INDICATION: Cough\n {line} Effusion\n") == ["INDICATION", line.rstrip(":")]


@pytest.mark.parametrize("line", ["at 5:30 a.m.", "5:30", "Impression of cough persists", "findings are unchanged"])
def test_no_heading(line):
    assert headings(f" INDICATION: Cough\n {line}\n") == ["INDICATION"]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r", "\u2028"])
def test_line_ends(line_end):
    report = line_end.join([" INDICATION: Cough", " FINDINGS: Clear"])
    assert headings(report) == ["INDICATION", "FINDINGS"]


def test_what_stands_before_the_report_is_left_out():
    assert headings("Text\n WET READ: x\n INDICATION: y\n     FINAL REPORT\n HISTORY: z\n") == ["HISTORY"]
    assert headings("no heading at all") == []


def test_paragraphs_end_at_blank_lines():
    (section,) = report_sections(" HISTORY:\n a\n b\n \t\n c\n ----\n d\n")
    assert [[line.strip() for line in lines] for lines in section.paragraphs()] == [["a", "b"], ["c"], ["d"]]


@pytest.mark.parametrize("report", [" HISTORY:\n\n a\n", " HISTORY: ___\n a\n", " HISTORY: ___\n ___\n a\n"])
def test_a_first_paragraph_may_be_empty(report):
    assert report_sections(report)[0].paragraphs()[0] == []
