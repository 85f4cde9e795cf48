"""Label names that data sets share, in one spelling, and the label spaces of the five benchmarks.

Sources: Wang et al. 2017 (ChestX-ray14), Irvin et al. 2019 (CheXpert; MIMIC-CXR-JPG uses the same fourteen),
Yang et al. 2023 (MedMNIST).
"""

from dataclasses import dataclass

CHESTXRAY14 = (
    "Atelectasis", "Cardiomegaly", "Pleural Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural Thickening", "Hernia",
)  # fmt: skip

CHEXPERT = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip

# The five that the CheXpert competition was decided by; papers report their mean as well as that of all fourteen.
CHEXPERT_COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")

COLORECTAL_TISSUE = (
    "adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa",
    "cancer-associated stroma", "colorectal adenocarcinoma epithelium",
)  # fmt: skip

DIABETIC_RETINOPATHY = ("none", "mild", "moderate", "severe", "proliferative")


@dataclass(frozen=True)
class LabelSubset:
    """Labels whose mean is reported beside the mean of all.

    Attributes:
        name: how results call it.
        labels: those averaged.
        among: labels that a site must all know, to tell a CheXpert-like site from another that has ``labels`` too.
    """

    name: str
    labels: tuple[str, ...]
    among: tuple[str, ...]


SUBSETS = (LabelSubset("chexpert competition 5", CHEXPERT_COMPETITION, CHEXPERT),)

# Kind of a benchmark (DatasetConfig.kind) -> name of its label space.
SPACE_OF_KIND = {
    "chestxray14": "chestxray14",
    "chexpert": "chexpert",
    "mimic_cxr": "mimic_cxr",
    "pathmnist": "colorectal_tissue",
    "retinamnist": "diabetic_retinopathy",
}

# Spellings in the wild -> canonical name, compared in lower case with "_" read as a blank.
_ALIASES = {
    "effusion": "Pleural Effusion",
    "pleural thickening": "Pleural Thickening",
    "enlarged cardiom.": "Enlarged Cardiomediastinum",
    "airspace opacity": "Lung Opacity",
    "covid19": "COVID-19",
    "covid-19": "COVID-19",
}
_FINDINGS = tuple(dict.fromkeys((*CHESTXRAY14, *CHEXPERT)))
_SPELLINGS = {name.lower(): name for name in _FINDINGS} | _ALIASES


def canonical_label(name: str) -> str:
    """The one spelling of a finding that all sites share; an unknown name is only stripped.

    Example: ``canonical_label("Effusion") == canonical_label("pleural_effusion") == "Pleural Effusion"``.
    """
    stripped = " ".join(name.split())
    return _SPELLINGS.get(stripped.lower().replace("_", " "), stripped)


def finding_order(name: str) -> tuple[int, str]:
    """Sort key of multilabel names: the known findings in their published order, then all others by alphabet."""
    return (_FINDINGS.index(name) if name in _FINDINGS else len(_FINDINGS), name)
