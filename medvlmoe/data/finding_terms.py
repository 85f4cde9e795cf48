"""Words that name a label: synonyms, abbreviations and inflections, for redacting reports and for the leak audit.

The lists are wide on purpose: a sentence too many removed costs a little context, one too few leaks the label. They
hold what the labelers of CheXpert (Irvin et al. 2019) and NegBio (Peng et al. 2018) look for, and what radiologists
write around it. In a term ``*`` is any ending, and a blank is any gap (``pleural-effusion``); plurals are found.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

# Label -> terms.
CHEST_TERMS: dict[str, tuple[str, ...]] = {
    "No Finding": (
        "normal*", "unremarkable", "clear", "clearing", "no acute*", "wnl", "no abnormal*", "negative", "no evidence",
        "unchanged", "stable", "free of", "without acute*", "no significant", "no focal",
    ),
    "Enlarged Cardiomediastinum": ("mediastin*", "cardiomediastin*", "pericardi*", "aorta*", "aortic", "hila*"),
    "Cardiomegaly": ("cardiomegal*", "cardio megal*", "heart*", "cardiac*", "ventricul*", "atrial", "atrium"),
    "Lung Opacity": (
        "opaci*", "densit*", "hazy", "haziness", "ground glass", "groundglass", "ggo", "shadow*", "airspace*",
        "air space*",
    ),
    "Lung Lesion": ("lesion*", "granuloma*", "cavit*", "cyst*", "abscess*"),
    "Edema": (
        "edema*", "oedema*", "congest*", "chf", "fluid*", "overload*", "kerley*", "interstiti*", "cephali*",
        "engorge*", "vascular*", "vasculature",
    ),
    "Consolidation": ("consolidat*", "bronchogram*", "lobar"),
    "Pneumonia": (
        "pneumoni*", "bronchopneumon*", "bronchiti*", "pna", "infect*", "aspirat*", "tubercul*", "tb", "septic",
    ),
    "Atelectasis": (
        "atelect*", "collaps*", "volume loss", "loss of volume", "lung volume*", "lobectom*", "underinflat*",
        "hypoinflat*", "hypoventilat*", "elevat*",
    ),
    "Pneumothorax": (
        "pneumothora*", "pneumo thora*", "ptx", "hydropneumo*", "pneumomediastin*", "pneumoperiton*", "free air",
    ),
    "Pleural Effusion": (
        "effusion*", "pleural*", "costophrenic", "hydrothora*", "hemothora*", "haemothora*", "chylothora*", "empyema*",
        "blunt*", "layering", "thoracentes*", "thoracocentes*",
    ),
    "Pleural Other": ("pleur*", "fibrothora*", "plaque*", "mesotheliom*"),
    "Pleural Thickening": ("thicken*",),
    "Fracture": ("fractur*", "fx", "broken", "dislocat*", "deform*", "displac*"),
    "Support Devices": (
        "tube*", "et", "ett", "ng", "ngt", "og", "ogt", "picc", "catheter*", "line", "central venous", "cvl", "cvc",
        "swan*", "pacemaker*", "pacer*", "pacing", "icd", "aicd", "defibrillat*", "lead", "wire*", "sternotom*",
        "clip*", "valve*", "stent*", "prosthe*", "hardware", "device*", "drain*", "dobbhoff*", "dobhoff*", "iabp",
        "balloon pump", "port a cath*", "portacath*", "mediport*", "power port", "endotracheal", "nasogastric",
        "tracheostom*", "intubat*", "extubat*", "cannul*", "electrode*", "impella", "lvad", "ecmo", "implant*",
    ),
    "Infiltration": ("infiltrat*",),
    "Mass": ("mass", "tumor*", "tumour*", "neoplas*", "malignan*", "carcinom*", "cancer*", "metasta*", "lymphom*"),
    "Nodule": ("nodul*",),
    "Emphysema": (
        "emphysem*", "copd", "hyperinflat*", "hyperexpan*", "bulla*", "bullous", "bleb*", "hyperlucen*", "flatten*",
    ),
    "Fibrosis": ("fibros*", "fibrot*", "scar*", "ild", "honeycomb*", "reticul*", "bronchiecta*"),
    "Hernia": ("herni*", "hiatal", "hiatus"),
}  # fmt: skip

_ENDING = re.compile(r"(?:ative|ation|ive|ion|ous|ed|al|ic|is|ia|um|es|y|e|s|a)$")
_SHORTEST_STEM = 4


def label_terms(labels: Sequence[str], synonyms: Mapping[str, Sequence[str]]) -> dict[str, re.Pattern[str]]:
    """For each label what a text names it by.

    Args:
        labels: names as in a label space (``block/class`` for classes).
        synonyms: further terms by label, without the block's name; ``*`` is any ending.

    Returns:
        One pattern a label, to be searched for.
    """
    found = {}
    for label in labels:
        name = label.rpartition("/")[2]
        terms = CHEST_TERMS.get(name) or (name, *_stems(name))
        found[label] = term_pattern([*terms, *synonyms.get(name, ())])
    return found


def term_pattern(terms: Iterable[str]) -> re.Pattern[str]:
    """What finds any of the terms, in upper and lower case."""
    return re.compile(rf"\b(?:{'|'.join(_expression(term) for term in dict.fromkeys(terms))})\b", re.IGNORECASE)


def _expression(term: str) -> str:
    words = re.findall(r"[^\W_]+\*?", term)
    ends = [rf"{re.escape(word[:-1])}\w*" if word.endswith("*") else re.escape(word) for word in words]
    if ends and not words[-1].endswith("*"):
        ends[-1] += "(?:s|es)?"
    return r"[\W_]*".join(ends)


def _stems(name: str) -> list[str]:
    words = [word for word in re.findall(r"[^\W\d_]+", name) if len(word) >= _SHORTEST_STEM]
    stems = [_ENDING.sub("", word) for word in words]
    return [f"{stem}*" if len(stem) >= _SHORTEST_STEM else word for stem, word in zip(stems, words, strict=True)]
