"""From what is drawn to what is labelled: the fourteen CheXpert labels, and how a text labeller words them."""

import numpy as np

from medvlmoe.data.phantom.chest_site import ChestSite

# In the order of CheXpert's own files; MIMIC-CXR's files are alphabetical.
CHEXPERT_LABELS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip

_DRAWN_AS = {
    "Enlarged Cardiomediastinum": ("Enlarged Cardiomediastinum",),
    "Cardiomegaly": ("Cardiomegaly",),
    "Lung Opacity": ("Infiltration", "Pneumonia", "Consolidation", "Edema", "Atelectasis"),
    "Lung Lesion": ("Mass", "Nodule"),
    "Edema": ("Edema",),
    "Consolidation": ("Consolidation",),
    "Pneumonia": ("Pneumonia",),
    "Atelectasis": ("Atelectasis",),
    "Pneumothorax": ("Pneumothorax",),
    "Pleural Effusion": ("Effusion",),
    "Pleural Other": ("Pleural_Thickening",),
    "Fracture": ("Fracture",),
    "Support Devices": ("Support Devices",),
}

# How often a report says that a finding is absent, and how often it is unsure about one that is there.
_DENIED = {"Pneumothorax": 0.55, "Pleural Effusion": 0.45, "Cardiomegaly": 0.25, "Consolidation": 0.35, "Edema": 0.3,
           "Pneumonia": 0.2, "Enlarged Cardiomediastinum": 0.2}  # fmt: skip
_UNSURE = {"Pneumonia": 0.15, "Atelectasis": 0.15, "Consolidation": 0.1, "Edema": 0.08}
_DENIED_OTHERWISE, _UNSURE_OTHERWISE, _UNSURE_WITHOUT_CAUSE = 0.06, 0.04, 0.02


def observed(present: set[str], site: ChestSite, random: np.random.Generator) -> set[str]:
    """Findings that a reader reports: some that are drawn are missed, a few are invented."""
    return {
        finding
        for finding in site.prevalence
        if random.random() < ((1 - site.missed) if finding in present else site.invented)
    }


def chexpert_truth(findings: set[str]) -> dict[str, float]:
    """0 or 1 for each of the fourteen labels, from the names of the findings."""
    labels = {label: float(any(name in findings for name in names)) for label, names in _DRAWN_AS.items()}
    ill = any(value for label, value in labels.items() if label != "Support Devices")
    return {"No Finding": float(not ill), **labels}


def mentioned(truth: dict[str, float], random: np.random.Generator) -> dict[str, float | None]:
    """What a report says about each label: 1 present, 0 absent, -1 uncertain, ``None`` not mentioned."""
    said: dict[str, float | None] = {}
    for label, value in truth.items():
        lot = random.random()
        if label == "No Finding":
            continue
        if value:
            said[label] = -1.0 if lot < _UNSURE.get(label, _UNSURE_OTHERWISE) else 1.0
        elif lot < _UNSURE_WITHOUT_CAUSE:
            said[label] = -1.0
        else:
            said[label] = 0.0 if lot < _UNSURE_WITHOUT_CAUSE + _DENIED.get(label, _DENIED_OTHERWISE) else None
    ill = any(value in (1.0, -1.0) for label, value in said.items() if label != "Support Devices")
    return {"No Finding": None if ill else 1.0, **said}
