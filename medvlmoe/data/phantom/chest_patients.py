"""The made-up patients of a chest benchmark: who they are, what they have, when they were imaged."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from medvlmoe.data.phantom.chest_site import FINDINGS, ChestSite
from medvlmoe.seeds import derive_seed

# Change of the log odds of a finding with one standard deviation of age, and for women.
_AGE_EFFECT = {"Cardiomegaly": 0.4, "Effusion": 0.35, "Edema": 0.3, "Emphysema": 0.4, "Fibrosis": 0.4, "Hernia": 0.6,
               "Pneumothorax": -0.4, "Atelectasis": 0.2, "Support Devices": 0.2}  # fmt: skip
_FEMALE_EFFECT = {"Hernia": 0.4, "Cardiomegaly": 0.2, "Emphysema": -0.4, "Pneumothorax": -0.3}

# Findings that come together: the first raises the log odds of the second.
_COMORBIDITY = (("Cardiomegaly", "Edema"), ("Effusion", "Atelectasis"), ("Pneumonia", "Infiltration"),
                ("Emphysema", "Pneumothorax"))  # fmt: skip

_MEAN_AGE, _AGE_SPREAD = 55.0, 16.0

# Below this number of images a split is too small to ask for every finding in it.
_IMAGES_FOR_ALL_FINDINGS = 12


@dataclass
class Visit:
    """One study of a patient.

    Attributes:
        number: 0 for the first study.
        view: ``PA`` or ``AP``.
        lateral: whether a lateral image was taken too.
        strength: findings that are there, with how plainly they show.
    """

    number: int
    view: str
    lateral: bool
    strength: dict[str, float]


@dataclass
class Patient:
    """One made-up patient.

    Attributes:
        number: running number over all splits of the benchmark.
        split: ``train``, ``validation`` or ``test``.
        age: years at the first study.
        sex: ``F`` or ``M``.
        seed: everything about this patient derives from it.
        visits: studies in order.
    """

    number: int
    split: str
    age: int
    sex: str
    seed: int
    visits: list[Visit]

    def random(self, *purpose: str | int) -> np.random.Generator:
        """A generator for one purpose of this patient."""
        return np.random.default_rng(derive_seed(self.seed, *purpose))

    @property
    def image_count(self) -> int:
        """Images of all studies."""
        return sum(2 if visit.lateral else 1 for visit in self.visits)


def sample_patients(site: ChestSite, images: Mapping[str, int], seed: int) -> Iterator[Patient]:
    """Patients whose images add up to exactly ``images[split]`` in each split."""
    number = 0
    for split, wanted in images.items():
        patients: list[Patient] = []
        missing = wanted
        while missing > 0:
            number += 1
            patients.append(_sample_patient(site, split, number, derive_seed(seed, "patient", number), missing))
            missing -= patients[-1].image_count
        if wanted >= _IMAGES_FOR_ALL_FINDINGS:
            _give_every_finding(site, patients, np.random.default_rng(derive_seed(seed, "rare findings", split)))
        yield from patients


def _sample_patient(site: ChestSite, split: str, number: int, seed: int, most_images: int) -> Patient:
    random = np.random.default_rng(seed)
    severity = random.normal(site.test_severity if split == "test" else 0.0, 1.0)
    age = float(np.clip(random.normal(_MEAN_AGE + 3 * severity, _AGE_SPREAD), 18, 90))
    sex = "F" if random.random() < 0.46 else "M"
    odds = {finding: _log_odds(chance) for finding, chance in site.prevalence.items()}
    for finding in odds:
        odds[finding] += 0.4 * severity + _AGE_EFFECT.get(finding, 0.0) * (age - _MEAN_AGE) / _AGE_SPREAD
        odds[finding] += _FEMALE_EFFECT.get(finding, 0.0) if sex == "F" else 0.0
    has = {finding: random.random() < _chance(odds[finding]) for finding in FINDINGS if finding in odds}
    for first, second in _COMORBIDITY:
        if has.get(first) and not has[second]:
            has[second] = random.random() < 0.2
    patient = Patient(number, split, round(age), sex, seed, [])
    for visit_number in range(1 + min(5, int(random.poisson(site.visits)))):
        view = "AP" if random.random() < _chance(site.bedside + 0.7 * severity) else "PA"
        lateral = view == "PA" and random.random() < site.lateral / max(_chance(-site.bedside), 0.2)
        strength = {
            finding: float(np.clip(random.normal(1.0, 0.22), 0.5, 1.5))
            for finding, present in has.items()
            if present and random.random() < 0.85
        }
        images_left = most_images - patient.image_count
        if images_left <= 0:
            break
        patient.visits.append(Visit(visit_number, view, lateral and images_left > 1, strength))
    return patient


def _give_every_finding(site: ChestSite, patients: list[Patient], random: np.random.Generator) -> None:
    """Give findings that fewer than two patients have to patients drawn by lot, so that they can be scored."""
    for finding in site.prevalence:
        without = [patient for patient in patients if not any(finding in visit.strength for visit in patient.visits)]
        missing = max(0, 2 - (len(patients) - len(without)))
        for index in random.permutation(len(without))[:missing]:
            for visit in without[index].visits:
                visit.strength[finding] = 1.0


def _log_odds(chance: float) -> float:
    return float(np.log(chance / (1 - chance)))


def _chance(log_odds: float) -> float:
    return float(1 / (1 + np.exp(-log_odds)))
