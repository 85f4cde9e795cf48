import pytest

from medvlmoe.data.finding_terms import CHEST_TERMS, label_terms
from medvlmoe.data.known_labels import CHESTXRAY14, CHEXPERT, DIABETIC_RETINOPATHY
from medvlmoe.data.phantom.reports import write_report
from medvlmoe.data.report_text import redaction_pattern, report_reader

REDACTED = report_reader("redacted", CHEXPERT)


def redacted(report: str) -> str:
    return REDACTED(report, "1")


def test_every_chest_label_has_terms_and_they_find_its_own_name():
    assert set(CHEST_TERMS) == {*CHESTXRAY14, *CHEXPERT}
    for label, pattern in label_terms(CHESTXRAY14, {}).items():
        assert pattern.search(f"There is {label.lower()}."), label


@pytest.mark.parametrize(
    "named",
    [
        "Large left pleural effusion.", "No effusions.", "PLEURAL-EFFUSION is denied.", "Blunting of the angle.",
        "Small apical PTX.", "No pneumothoraces.", "Hydropneumothorax.", "Bibasilar atelectatic changes.",
        "The heart is enlarged.", "Cardiomegalic silhouette.", "Cardiac size is top normal.", "CHF.", "Oedema.",
        "Multifocal PNA.", "Aspiration pneumonitis.", "Hazy densities at the base.", "Ground-glass opacification.",
        "Consolidative process.", "Multiple nodules.", "Spiculated mass.", "Rib fx.", "Healed fractures of ribs.",
        "ET tube in place.", "Right PICC line ends in the SVC.", "Pacemaker leads.", "Fibrotic scarring.",
        "Emphysematous bullae.", "Hiatal hernia.", "Infiltrates.", "No acute cardiopulmonary process.",
        "Lungs are clear.", "Unchanged.", "There is a large left pleural\n effusion.", "1. Effusion.",
    ],
)  # fmt: skip
def test_a_sentence_that_names_a_finding_goes_denied_or_not(named):
    assert redacted(f"Cough for a week. {named} Smoker.") == "Cough for a week. Smoker."


def test_sentences_without_a_finding_stay():
    text = "INDICATION: 57 year old man with cough and fever. Portable AP view. Massachusetts. Seen at 3.5 hours."
    assert redacted(text) == text


def test_paragraphs_and_items_are_sentences_of_their_own():
    assert redacted("Cough\n \nLarge effusion\n \nSmoker 1. Effusion 2) Seen today") == "Cough Smoker 2) Seen today"


def test_the_terms_of_a_hospital_are_its_labels_and_their_synonyms():
    pattern = redaction_pattern(["grade/serrated", "grade/healthy"], {"serrated": ["SSL", "sawtooth*"]})
    for named in ("Serration.", "HEALTHY tissue.", "An SSL.", "two SSLs.", "Saw-tooth", "sawtoothed."):
        found = pattern.search(named) is not None
        assert found == (named != "Saw-tooth"), named
    assert not pattern.search("Sent by Dr. Serrano. A classless text.")
    graded = redaction_pattern([f"diabetic_retinopathy/{grade}" for grade in DIABETIC_RETINOPATHY])
    assert graded.search("moderate NPDR") and graded.search("Proliferation") and not graded.search("fundus of the eye")
    assert not graded.search("effusion"), "words of the chest are redacted where labels of the chest are"


def test_report_is_all_of_it_and_context_its_safe_sections():
    report = " INDICATION:  Cough.\n \n IMPRESSION:  Effusion.\n"
    assert report_reader("report", CHEXPERT)(report, "1") == "INDICATION: Cough. IMPRESSION: Effusion."
    assert report_reader("context", CHEXPERT)(report, "1") == "Indication: Cough."


def test_a_redacted_phantom_report_does_not_depend_on_its_findings():
    """Reports that differ in their findings only are the same text once redacted."""
    import numpy as np

    def write(value: float) -> str:
        mentions = dict.fromkeys(CHEXPERT, value) | {"No Finding": 1.0 - value}
        return write_report(
            mentions, sex="F", view="PA", lateral=False, follow_up=True, random=np.random.default_rng(0)
        ).partition("TECHNIQUE")[2]  # the complaint before it goes with the findings on purpose

    assert write(0.0) != write(1.0)
    assert redacted(write(0.0)) == redacted(write(1.0)) != ""
