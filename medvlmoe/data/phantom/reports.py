"""Made-up radiology reports in the form of MIMIC-CXR.

Findings and impression name the labels, as real reports do: a model that reads them has read the answer. The other
sections never name a label; the indication is a complaint that goes only loosely with what is there.
"""

import numpy as np

# Stands before the report proper; without a colon, so that no section parser takes it for a heading.
_NOTICE = "(PHANTOM report written by medvlmoe, describes no person)"

# Complaints, each with the labels that make it a little more likely.
_COMPLAINTS = {
    "cough": ("Pneumonia", "Lung Opacity"),
    "fever": ("Pneumonia", "Consolidation"),
    "shortness of breath": ("Edema", "Pleural Effusion", "Cardiomegaly"),
    "chest pain": ("Pneumothorax", "Fracture"),
    "weight loss": ("Lung Lesion", "Pleural Other"),
    "hypoxia": ("Edema", "Atelectasis", "Consolidation"),
    "fall from standing": ("Fracture",),
    "line placement": ("Support Devices",),
    "preoperative evaluation": (),
    "dizziness": (),
}
_PULL_OF_A_FINDING = 0.8

_SENTENCES = {
    "Enlarged Cardiomediastinum": "enlarged cardiomediastinum",
    "Cardiomegaly": "cardiomegaly",
    "Lung Opacity": "lung opacity",
    "Lung Lesion": "lung lesion",
    "Edema": "pulmonary edema",
    "Consolidation": "focal consolidation",
    "Pneumonia": "pneumonia",
    "Atelectasis": "atelectasis",
    "Pneumothorax": "pneumothorax",
    "Pleural Effusion": "pleural effusion",
    "Pleural Other": "pleural thickening",
    "Fracture": "rib fracture",
}
_PRESENT = ("There is {}.", "{} is seen.", "{} is present.")
_UNSURE = ("Possible {}.", "{} cannot be excluded.")


def write_report(
    mentions: dict[str, float | None],
    *,
    sex: str,
    view: str,
    lateral: bool,
    follow_up: bool,
    random: np.random.Generator,
) -> str:
    """The text of one report; ``mentions`` as given by :func:`medvlmoe.data.phantom.chest_labels.mentioned`."""
    person = "woman" if sex == "F" else "man"
    projection = "PA AND LAT" if lateral else ("PORTABLE AP" if view == "AP" else "PA")
    technique = {"PA AND LAT": "Chest PA and lateral", "PA": "Chest PA", "PORTABLE AP": "Portable AP chest radiograph"}
    sections = {
        "EXAMINATION": f"CHEST ({projection})",
        "INDICATION": f"___ year old {person} with {_complaint(mentions, random)}.",
        "TECHNIQUE": f"{technique[projection]}.",
        "COMPARISON": "Chest radiograph from ___." if follow_up else "None.",
        "FINDINGS": _findings(mentions, random),
        "IMPRESSION": _impression(mentions),
    }
    body = " \n \n".join(f" {heading}:  {_wrapped(text)}" for heading, text in sections.items())
    return f" {_NOTICE}\n \n                                 FINAL REPORT\n{body}\n"


def _complaint(mentions: dict[str, float | None], random: np.random.Generator) -> str:
    causes = np.array([sum(mentions[label] == 1.0 for label in labels) for labels in _COMPLAINTS.values()])
    weight = 1 + _PULL_OF_A_FINDING * causes
    return str(random.choice(list(_COMPLAINTS), p=weight / weight.sum()))


def _findings(mentions: dict[str, float | None], random: np.random.Generator) -> str:
    sentences = []
    for label, phrase in _SENTENCES.items():
        forms = {1.0: _PRESENT, -1.0: _UNSURE, 0.0: ("No {}.",)}.get(mentions[label], ())  # type: ignore[arg-type]
        if forms:
            sentence = forms[int(random.integers(len(forms)))].format(phrase)
            sentences.append(sentence[0].upper() + sentence[1:])
    devices = mentions["Support Devices"]
    if devices is not None:
        sentences.append("Support devices are in standard position." if devices else "No support devices.")
    if mentions["No Finding"] == 1.0:
        sentences.append("The lungs are clear.")
    return " ".join(sentences) or "The lungs are clear."


def _impression(mentions: dict[str, float | None]) -> str:
    named = [phrase for label, phrase in _SENTENCES.items() if mentions[label] == 1.0]
    possible = [f"possible {phrase}" for label, phrase in _SENTENCES.items() if mentions[label] == -1.0]
    if not named + possible:
        return "No acute cardiopulmonary process."
    text = ", ".join(named + possible)
    return text[0].upper() + text[1:] + "."


def _wrapped(text: str, width: int = 78) -> str:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return "\n".join([*lines, line])
