"""What is hidden as one: an image, or a patient with all images.

With the patient as the unit a step draws *patients*, each independently of the others, and takes one image of each
drawn patient, at random. So a patient gives at most one clipped gradient to a step, and the sampling rate is that of
the patients: a training set with one patient more differs by one row at most, and the account of an image holds for a
patient as it stands. Which image was taken is a random choice of the hospital for that patient alone, and a mixture of
mechanisms that each keep a bound keeps it too.

Shapes: N records, U units.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medvlmoe.privacy.randomness import Stream

IMAGE, PATIENT = "image", "patient"


@dataclass(frozen=True)
class PrivacyUnits:
    """The records of a training set as units.

    Attributes:
        kind: what a unit is: ``image`` or ``patient``.
        rows: the records of each of the U units; together every record once.
    """

    kind: str
    rows: Sequence[Sequence[int]]

    @classmethod
    def images(cls, records: int) -> "PrivacyUnits":
        """Every record is a unit."""
        return cls(IMAGE, [[row] for row in range(records)])

    @classmethod
    def of(cls, unit: str, dataset: object) -> "PrivacyUnits":
        """The units of a training set.

        Args:
            unit: what was asked for. A set that tells no patients is one of images all the same.
            dataset: has a length; of its patients it has ``patient_ids``, and ``tells_patients`` if they are known.
        """
        patient_ids: Sequence[str] = getattr(dataset, "patient_ids", ())
        if unit == IMAGE or not getattr(dataset, "tells_patients", False):
            return cls.images(len(dataset))  # type: ignore[arg-type]
        rows: dict[str, list[int]] = {}
        for row, patient in enumerate(patient_ids):
            rows.setdefault(patient, []).append(row)
        return cls(PATIENT, list(rows.values()))

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, stream: Stream, rate: float) -> list[int]:
        """One record of each unit that is drawn, in random order; every unit is drawn with probability ``rate``."""
        return [
            own[stream.below(len(own))] if len(own) > 1 else own[0]
            for own in (self.rows[unit] for unit in stream.sample(len(self.rows), rate))
        ]

    def shares(self) -> Tensor:
        """What a record is of its unit, so that a unit's records add up to 1; float64, shape (N,)."""
        share_N = torch.ones(sum(map(len, self.rows)), dtype=torch.float64)
        for own in self.rows:
            share_N[list(own)] = 1 / len(own)
        return share_N
