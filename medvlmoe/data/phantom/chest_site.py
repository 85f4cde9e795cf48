"""How the three chest benchmarks differ: prevalence, patients, scanner, care in labelling."""

from dataclasses import dataclass, field

# Findings that can be drawn; the first fourteen in the order of ChestX-ray14.
FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
    "Enlarged Cardiomediastinum", "Fracture", "Support Devices",
)  # fmt: skip
CHESTXRAY14_FINDINGS = FINDINGS[:14]


@dataclass(frozen=True)
class Scanner:
    """The look of one hospital's images.

    Attributes:
        gamma: darkens (above 1) or brightens the middle tones.
        contrast: spread of the grey values.
        brightness: grey value of middle density.
        blur: Gaussian blur in parts of the image side.
        noise: standard deviation of the noise.
        border: probability of a black or white collimator border.
        marker: probability of a side marker (R or L) in an upper corner.
    """

    gamma: float
    contrast: float
    brightness: float
    blur: float
    noise: float
    border: float
    marker: float


@dataclass(frozen=True)
class ChestSite:
    """One chest benchmark.

    Attributes:
        name: name of the benchmark.
        prevalence: probability of each finding in a patient of average severity; absent findings never occur.
        bedside: log odds of an AP view in a patient of average severity.
        lateral: probability that a study has a second, lateral image.
        visits: mean number of studies of a patient after the first.
        missed: probability that a finding that is drawn is not labelled.
        invented: probability that a finding that is not drawn is labelled.
        test_severity: how much sicker the test patients are, in standard deviations.
        scanner: look of the images.
    """

    name: str
    prevalence: dict[str, float]
    bedside: float
    lateral: float
    visits: float
    missed: float
    invented: float
    test_severity: float
    scanner: Scanner = field(kw_only=True)


CHESTXRAY14 = ChestSite(
    name="chestxray14",
    prevalence={
        "Atelectasis": 0.13, "Cardiomegaly": 0.11, "Effusion": 0.14, "Infiltration": 0.17, "Mass": 0.12,
        "Nodule": 0.13, "Pneumonia": 0.10, "Pneumothorax": 0.12, "Consolidation": 0.12, "Edema": 0.07,
        "Emphysema": 0.10, "Fibrosis": 0.09, "Pleural_Thickening": 0.10, "Hernia": 0.07,
    },
    bedside=-0.5,
    lateral=0.0,
    visits=0.5,
    missed=0.03,
    invented=0.01,
    test_severity=0.3,
    scanner=Scanner(gamma=1.0, contrast=1.0, brightness=0.0, blur=0.004, noise=0.014, border=0.15, marker=0.6),
)  # fmt: skip

CHEXPERT = ChestSite(
    name="chexpert",
    prevalence={
        "Atelectasis": 0.15, "Cardiomegaly": 0.14, "Effusion": 0.24, "Infiltration": 0.08, "Mass": 0.07,
        "Nodule": 0.05, "Pneumonia": 0.13, "Pneumothorax": 0.15, "Consolidation": 0.15, "Edema": 0.17,
        "Emphysema": 0.03, "Fibrosis": 0.03, "Pleural_Thickening": 0.08, "Hernia": 0.01,
        "Enlarged Cardiomediastinum": 0.11, "Fracture": 0.11, "Support Devices": 0.38,
    },
    bedside=1.2,
    lateral=0.15,
    visits=0.3,
    missed=0.03,
    invented=0.01,
    test_severity=0.0,
    scanner=Scanner(gamma=0.8, contrast=1.15, brightness=0.06, blur=0.006, noise=0.022, border=0.05, marker=0.2),
)  # fmt: skip

MIMIC_CXR = ChestSite(
    name="mimic_cxr",
    prevalence={
        "Atelectasis": 0.18, "Cardiomegaly": 0.16, "Effusion": 0.20, "Infiltration": 0.08, "Mass": 0.05,
        "Nodule": 0.06, "Pneumonia": 0.14, "Pneumothorax": 0.12, "Consolidation": 0.13, "Edema": 0.13,
        "Emphysema": 0.05, "Fibrosis": 0.03, "Pleural_Thickening": 0.07, "Hernia": 0.02,
        "Enlarged Cardiomediastinum": 0.09, "Fracture": 0.11, "Support Devices": 0.28,
    },
    bedside=0.4,
    lateral=0.15,
    visits=0.6,
    missed=0.03,
    invented=0.01,
    test_severity=0.6,
    scanner=Scanner(gamma=1.25, contrast=0.9, brightness=-0.03, blur=0.002, noise=0.018, border=0.35, marker=0.8),
)  # fmt: skip
