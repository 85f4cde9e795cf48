import pytest

from medvlmoe.data.report_sections import leak_free_context

# MIMIC-CXR separates sections by a line that holds one blank.
REPORT = "\n".join(
    [
        "                                 FINAL REPORT",
        " EXAMINATION:  CHEST (PA AND LAT)",
        " ",
        " INDICATION:  ___ year old woman with cough.  // eval",
        "  for change",
        " ",
        " TECHNIQUE:  PA and lateral",
        " ",
        " COMPARISON:  ___.",
        " ",
        " FINDINGS: ",
        " ",
        " There is a large effusion.",
        " ",
        " IMPRESSION: ",
        " ",
        " Large effusion.",
        "",
    ]
)


def test_only_what_was_known_before_the_images_is_kept():
    assert leak_free_context(REPORT, "1") == (
        "Examination: CHEST (PA AND LAT). Indication: year old woman with cough. // eval for change. "
        "Technique: PA and lateral."
    )


def test_windows_line_ends():
    assert leak_free_context(REPORT.replace("\n", "\r\n"), "1") == leak_free_context(REPORT, "1")


@pytest.mark.parametrize(
    "report",
    [
        # a provisional impression under a heading of its own, before and after
        " PFI:  Effusion.\n \n INDICATION:  Cough.\n \n IMPRESSION:  Effusion.\n",
        # a conclusion after a blank line of a harmless section
        " INDICATION:  Cough.\n \n Moderate effusion on the left.\n",
        # a whole report in one paragraph of a harmless section
        " INDICATION:  F with cough. Large left effusion is new.\n",
        # headings inside a line
        " INDICATION:  Cough. FINDINGS:  Effusion.\n \n IMPRESSION:  Effusion.\n",
        " INDICATION:  Cough. Impression: effusion.\n \n IMPRESSION:  Effusion.\n",
        # unknown headings, headings that mean findings, spelling mistakes
        " CHEST, PA AND LATERAL:  Effusion.\n \n IMPRESSION:  Effusion.\n",
        " INDICATION:  Cough.\n \n IMPRESSON:  Effusion.\n",
        " NDICATION:  Effusion.\n \n IMPRESSION:  Effusion.\n",
        # text before the first heading
        " ADDENDUM Effusion is confirmed.\n \n        FINAL REPORT\n INDICATION:  Cough.\n \n FINDINGS:  Effusion.\n",
        " WET READ: Effusion.\n ______\n                FINAL REPORT\n INDICATION:  Cough.\n \n FINDINGS:  Effusion.\n",
        # a second section of the same name, as in an addendum
        " HISTORY:  Cough.\n \n FINDINGS:  Effusion.\n \n HISTORY:  Effusion as above.\n",
        # no heading at all, nothing at all
        "Large effusion.",
        "",
    ],
)
def test_leak_traps(report):
    assert "effusion" not in leak_free_context(report, "1").lower()


def test_studies_with_the_conclusion_elsewhere_have_no_text():
    assert leak_free_context(REPORT, "50913680") == ""
    assert leak_free_context(REPORT, "52035334") == ""


def test_blanked_names_are_removed():
    assert "_" not in leak_free_context(REPORT, "1")
