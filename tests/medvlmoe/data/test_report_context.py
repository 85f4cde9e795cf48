"""Made-up reports, one a trap: what the images show is written as "effusion" and must never come out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlmoe.data.report_context import leak_free_context

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
END = "\n \n IMPRESSION:  Effusion.\n"


def test_only_what_was_known_before_the_images_is_kept():
    assert leak_free_context(REPORT, "1") == (
        "Examination: CHEST (PA AND LAT). Indication: year old woman with cough. // eval for change. "
        "Technique: PA and lateral."
    )


@pytest.mark.parametrize(
    ("changed", "report"),
    [
        ("Windows line ends", REPORT.replace("\n", "\r\n")),
        ("no indent", REPORT.replace("\n ", "\n")),
        ("deep indent", REPORT.replace("\n ", "\n       ")),
        ("tabs", REPORT.replace("\n ", "\n\t").replace(":  ", ":\t")),
        ("lower-case headings", REPORT.replace("EXAMINATION", "Examination").replace("INDICATION", "indication")),
        ("no-break spaces", REPORT.replace(" ", "\u00a0")),
        ("wide colons", REPORT.replace(":", "\uff1a")),
        ("a wet read before", " WET READ: ___ 5:50 PM\n  Effusion.\n INDICATION:  Effusion.\n____\n" + REPORT),
        ("an addendum before", " ADDENDUM  Effusion.\n \n HISTORY:  Effusion.\n" + REPORT),
        ("an addendum after", REPORT + "\n ADDENDUM:\n \n Effusion.\n \n HISTORY:  Effusion.\n"),
        ("a misspelt conclusion", REPORT.replace("IMPRESSION", "IMOERSSION")),
    ],
)
def test_the_same_report_in_another_dress(changed, report):
    assert leak_free_context(report, "1") == leak_free_context(REPORT, "1"), changed


def test_an_indication_over_several_lines():
    lines = [
        " INDICATION:  ___ year old man who had a large left effusion drained last week and",
        " now comes back with shortness of breath and low-grade fever since the day before",
        " yesterday, on antibiotics.",
    ]
    kept = leak_free_context("\n".join(lines) + END, "1")
    assert kept.startswith("Indication: year old man who had a large left effusion drained")
    assert kept.endswith("since the day before yesterday, on antibiotics.")


@pytest.mark.parametrize(
    ("report", "kept"),
    [
        (" REASON FOR EXAM:  Cough." + END, "Indication: Cough."),
        (" CLINICAL INFORMATION: Cough" + END, "History: Cough."),
        (" HISTORY:64-year-old" + END, "History: 64-year-old."),
        (" INDICATION:\n Cough" + END, "Indication: Cough."),
        (" COMPARISONS:  Chest radiograph from ___ at 5:30" + END, "Comparison: Chest radiograph from at 5:30."),
        # the conclusion stands first, or under the name of the examination, or without a heading at the end
        (" IMPRESSION:  Effusion.\n \n HISTORY:  Cough.\n", "History: Cough."),
        (" HISTORY:  Cough.\n \n CHEST, PA AND LATERAL:  There is a large effusion.\n", "History: Cough."),
        (" HISTORY:  Cough.\n \n Moderate effusion on the left.\n", "History: Cough."),
        (" CHEST, PA LATERAL:\n \n HISTORY:  Cough." + END, "History: Cough."),
        # a history may name a finding of the past
        (" HISTORY:  Had an effusion in ___." + END, "History: Had an effusion in."),
        (" INDICATION:  R/o effusion" + END, "Indication: R/o effusion."),
        # text up to where the images are spoken of
        (" HISTORY:  Cough. There is a large effusion." + END, "History: Cough."),
        (" HISTORY:  Cough. 1. Large effusion." + END, "History: Cough."),
        (" COMPARISON:  ___ chest film. Larger effusion." + END, "Comparison: chest film."),
        (
            " COMPARISON:  Chest radiograph from ___ at 5:30. Interval increase." + END,
            "Comparison: Chest radiograph from at 5:30.",
        ),
        (" COMPARISON:  ___ - no change." + END, ""),
        (" COMPARISON:  None available. Tube has been advanced." + END, "Comparison: None available."),
        (" EXAMINATION:  CHEST PORT. LINE PLACEMENT" + END, "Examination: CHEST PORT. LINE PLACEMENT."),
        (" TECHNIQUE:  Portable. Right basal haziness." + END, "Technique: Portable."),
        (" TECHNIQUE:  Semi-upright AP view. NG tube ends in the stomach." + END, "Technique: Semi-upright AP view."),
        # a clinical sentence that names a finding, and a radiologist's without a verb
        (
            " INDICATION:  Known pneumothorax. Assess for change." + END,
            "Indication: Known pneumothorax. Assess for change.",
        ),
        (" INDICATION:  Cough. Left pneumonia? Fever." + END, "Indication: Cough. Left pneumonia? Fever."),
        (" INDICATION:  Cough. Small left effusion." + END, "Indication: Cough."),
        (" INDICATION:  Cough. Moderate cardiomegaly, bibasilar atelectasis." + END, "Indication: Cough."),
        (" HISTORY:  Cough. CXR today with effusion." + END, "History: Cough."),
        (" HISTORY:  Cough. Prelim read: effusion." + END, "History: Cough."),
        (" HISTORY:  Cough. Wet read by Dr. ___ effusion." + END, "History: Cough."),
        (" REASON FOR THIS EXAMINATION:  Cough." + END, "Indication: Cough."),
        (" HISTORY / INDICATION:  Cough." + END, "Indication: Cough."),
        # a section after the conclusion counts only where there was none before it
        (" HISTORY:  Cough." + END + " \n COMPARISON:  ___.\n \n INDICATION:  Fever.\n", "History: Cough."),
    ],
)
def test_what_is_kept(report, kept):
    assert leak_free_context(report, "1") == kept


@pytest.mark.parametrize(
    "report",
    [
        # a provisional impression under a heading of its own, before and after
        " PFI:  Effusion.\n \n INDICATION:  Cough.\n \n IMPRESSION:  Effusion.\n",
        " INDICATION:  Cough.\n \n PROVISIONAL FINDINGS IMPRESSION (PFI):  Effusion.\n",
        # a conclusion after a blank line of a harmless section, also in the middle, and after a ruler
        " INDICATION:  Cough.\n \n Moderate effusion on the left.\n",
        " INDICATION:  Cough.\n \n Effusion.\n \n TECHNIQUE:  PA." + END,
        " INDICATION:  Cough.\n ____\n Effusion." + END,
        # a whole report in one paragraph of a harmless section, though something harmless stands behind it
        " INDICATION:  F with cough. Large left effusion.\n",
        " INDICATION:  F with cough. Large left effusion.\n \n NOTIFICATION:  Dr. ___ was called at 5:30.\n",
        " INDICATION:  F with cough. Large left effusion.\n \n Discussed with Dr. ___ by phone.\n",
        " INDICATION:  F with cough. Large left effusion.\n \n RECOMMENDATION(S):  CT.\n \n Of the whole chest.\n",
        " COMPARISON:  ___. Effusion has increased.\n",
        # a conclusion that points elsewhere
        " INDICATION:  Cough. Large left effusion.\n \n IMPRESSION:  As above.\n",
        " INDICATION:  Cough. Large left effusion.\n \n IMPRESSION: \n",
        " INDICATION:  Cough. Large left effusion.\n \n IMPRESSION:  ___.\n \n FINDINGS:  See below.\n",
        # headings inside a line
        " INDICATION:  Cough. FINDINGS:  Effusion.\n \n IMPRESSION:  Effusion.\n",
        " INDICATION:  Cough. Impression: effusion.\n \n IMPRESSION:  Effusion.\n",
        " INDICATION:  Cough. IMPRESSION Effusion.\n \n IMPRESSION:  Effusion.\n",
        " INDICATION:  Cough. Findings - effusion.\n \n IMPRESSION:  Effusion.\n",
        " INDICATION:  Cough CHEST, TWO VIEWS: effusion.\n \n IMPRESSION:  Effusion.\n",
        " EXAMINATION: CHEST INDICATION: Cough FINDINGS: Effusion. IMPRESSION: Effusion.",
        # findings without a heading in the next line
        " EXAMINATION:  CHEST (PA AND LAT)\n Large left effusion." + END,
        " EXAMINATION:  CHEST (PA AND LAT)\n large left effusion." + END,
        " INDICATION:  Cough\n Large effusion." + END,
        " indication: cough\n large effusion\n \n impression: effusion\n",
        " TECHNIQUE:  PA and lateral.\n 1. Effusion.\n 2. No pneumothorax." + END,
        f" INDICATION:  {'Cough and fever for days, ' * 3}\n - Effusion." + END,
        # findings in the same line
        " EXAMINATION:  CHEST (PA AND LAT) with effusion." + END,
        " TECHNIQUE:  Single view. Effusion is new." + END,
        # unknown headings, headings that mean findings, spelling mistakes
        " CHEST, PA AND LATERAL:  Effusion.\n \n IMPRESSION:  Effusion.\n",
        " CHEST, 2 VIEWS:  Effusion.\n \n IMPRESSION:  Effusion.\n",
        " PA & LATERAL:  Effusion.\n \n IMPRESSION:  Effusion.\n",
        " INDICATION:  Cough.\n \n IMPRESSON:  Effusion.\n",
        " NDICATION:  Effusion.\n \n IMPRESSION:  Effusion.\n",
        " IMPRESSION\n Effusion\n",
        " INDICATION:  Cough.\n Impression\n Effusion\n",
        # text before the first heading
        " ADDENDUM Effusion is confirmed.\n \n        FINAL REPORT\n INDICATION:  Cough.\n \n FINDINGS:  Effusion.\n",
        " WET READ: Effusion.\n ______\n                FINAL REPORT\n INDICATION:  Cough.\n \n FINDINGS:  Effusion.\n",
        " WET READ VERSION #1 ___ 5:50 PM\n Effusion.\n INDICATION:  Cough.\n \n FINDINGS:  Effusion.\n",
        # a second section of the same name, as in an addendum
        " HISTORY:  Cough.\n \n FINDINGS:  Effusion.\n \n HISTORY:  Effusion as above.\n",
        " FINDINGS:  Effusion.\n \n ADDENDUM:  Seen again.\n \n HISTORY:  Effusion as above.\n",
        " FINDINGS:  Effusion.\n Comparison: effusion has grown.\n History: effusion.\n",
        # no heading at all, nothing at all
        "Large effusion.",
        "",
    ],
)  # fmt: skip
def test_leak_traps(report):
    assert "effusion" not in leak_free_context(report, "1").lower()


def test_studies_with_the_conclusion_elsewhere_have_no_text():
    assert leak_free_context(REPORT, "50913680") == ""
    assert leak_free_context(REPORT, "52035334") == ""


def test_blanked_names_are_removed():
    assert "_" not in leak_free_context(REPORT, "1")


SEEN = [
    "Moderate cardiomegaly is unchanged.", "There is a small left effusion.", "Lungs are clear.", "No pneumothorax.",
    "No acute cardiopulmonary process.", "Bibasilar atelectasis.", "Low lung volumes.", "Interval drain removal.",
    "Endotracheal tube tip is 4 cm above the carina.", "Hyperinflated lungs compatible with COPD.", "Emphysema.",
    "Healed right rib fractures.", "Sternotomy wires are intact.", "Streaky opacities, most likely atelectasis.",
    "Patchy right middle lobe opacity concerning for infection.", "Pacemaker leads are in standard position.",
    "Nasogastric tube courses below the diaphragm.", "Tracheostomy in place.", "Normal chest radiograph.",
    "Little overall change.", "Subcutaneous emphysema along the left chest wall.", "Scoliosis.", "Probable effusions.",
    "Blunting of the left costophrenic angle.", "Dobbhoff tube coiled in the esophagus.", "Granuloma in the apex.",
    "As compared to the previous radiograph, the opacities have decreased.", "Worsening multifocal pneumonia.",
]  # fmt: skip
BODIES = {
    "INDICATION": "___ year old man with cough.", "HISTORY": "Shortness of breath.", "CLINICAL HISTORY": "S/p fall.",
    "REASON FOR EXAM": "Please evaluate for infection.", "TECHNIQUE": "PA and lateral views of the chest.",
    "COMPARISON": "___.", "EXAMINATION": "CHEST (PORTABLE AP)",
}  # fmt: skip


@pytest.mark.parametrize("heading", BODIES)
@pytest.mark.parametrize("place", ["{body} {seen}", "{body}\n {seen}", "{body}\n \n {seen}", "{body}\n   {seen}"])
def test_what_radiologists_write_never_comes_out_wherever_it_stands(heading, place):
    body = BODIES[heading]
    alone = leak_free_context(f" {heading}:  {body}{END}", "1")
    for seen in SEEN:
        text = place.format(body=body, seen=seen)
        kept = leak_free_context(f" {heading}:  {text}\n \n IMPRESSION:  {seen}\n", "1")
        assert kept in (alone, ""), seen
        assert leak_free_context(f" {seen}\n {heading}:  {body}\n \n FINDINGS:  {seen}\n", "1") == alone


@pytest.mark.parametrize(
    "text",
    [
        "___F with new onset atrial fibrillation. Please assess for cardiomegaly", "Cough. Question pneumonia",
        "Status post line placement. Check PICC tip position", "History of CHF, now hypoxic. Rule out pulmonary edema",
        "Known right pleural effusion. Follow up after thoracentesis", "Fever. Right lower lobe crackles",
        "Preoperative. No prior history of heart disease", "Fall. Left chest wall pain. Rule out rib fracture",
        "___M s/p CABG with chest tubes // ?ptx", "Hypoxia. Small pneumothorax on prior film", "Altered mental status",
    ],
)  # fmt: skip
def test_what_clinicians_write_stays(text):
    assert leak_free_context(f" INDICATION:  {text}{END}", "1") == f"Indication: {text.replace('___', '')}."


MARKERS = st.lists(
    st.text("bcdfgklmnprstvz", min_size=6, max_size=9).map(lambda word: f"q{word}"), min_size=1, max_size=12
)
TOLD_BY_THE_IMAGES = st.sampled_from(
    ["IMPRESSION", "FINDINGS", "CONCLUSION", "FINDINGS AND IMPRESSION", "FINDINGS/IMPRESSION", "PFI", "WET READ",
     "ADDENDUM", "CHEST, PA AND LATERAL", "PORTABLE CHEST, 1 VIEW", "IMPRESSON", "RECOMMENDATION(S)"]
)  # fmt: skip
HARMLESS = st.sampled_from(["INDICATION", "HISTORY", "TECHNIQUE", "COMPARISON", "EXAMINATION", "REASON FOR EXAM"])
DRESSES = st.sampled_from([str.upper, str.lower, str.title, str.capitalize])
INDENTS = st.sampled_from(["", " ", "    ", "\t", "\u00a0", "- ", "1. "])
COLONS = st.sampled_from([":", " :", ":  ", "\uff1a", ":\n", ":\n \n", ":\t"])
BREAKS = st.sampled_from(["\n", "\n \n", "\n\n", "\r\n", "\r\n \r\n", "\n \t \n", "\n____\n"])


@st.composite
def told_sections(draw: st.DrawFn) -> tuple[str, list[str]]:
    words = draw(MARKERS)
    separator = draw(st.sampled_from([" ", "\n ", ".  ", "\n \n "]))
    heading = draw(DRESSES)(draw(TOLD_BY_THE_IMAGES))
    return f"{draw(INDENTS)}{heading}{draw(COLONS)} {separator.join(words)}", words


@st.composite
def harmless_sections(draw: st.DrawFn) -> tuple[str, list[str]]:
    return f"{draw(INDENTS)}{draw(DRESSES)(draw(HARMLESS))}{draw(COLONS)} Cough.", []


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(told_sections(), harmless_sections()), min_size=1, max_size=7),
    BREAKS,
    st.booleans(),
    st.booleans(),
)
def test_no_word_of_the_conclusion_comes_out_whatever_the_order_and_the_dress(sections, separator, header, preamble):
    report = separator.join(text for text, _ in sections)
    report = ("     FINAL REPORT\n" if header else "") + ("qpreamble text\n" if preamble else "") + report
    kept = leak_free_context(report, "1").lower()
    told = [word for _, words in sections for word in words] + ["qpreamble"]
    assert not [word for word in told if word in kept]
