"""Images or patients as units: who is drawn, how often, and which image."""

from collections import Counter
from typing import ClassVar

import pytest

from medvlmoe.privacy.randomness import SecretRandomness
from medvlmoe.privacy.units import PrivacyUnits


class Told:
    """A data set: ten patients with one to four images, in mixed order."""

    tells_patients = True
    patient_ids: ClassVar = [str(row % 7) if row < 14 else str(row % 10) for row in range(30)]

    def __len__(self) -> int:
        return len(self.patient_ids)


class NotTold(Told):
    tells_patients = False


def test_every_record_is_in_one_unit() -> None:
    by_patient, by_image = PrivacyUnits.of("patient", Told()), PrivacyUnits.of("image", Told())
    assert (by_patient.kind, len(by_patient)) == ("patient", 10)
    assert (by_image.kind, len(by_image)) == ("image", 30)
    for units in (by_patient, by_image):
        assert sorted(row for own in units.rows for row in own) == list(range(30))
    for own in by_patient.rows:
        assert len({Told.patient_ids[row] for row in own}) == 1


def test_without_patients_the_unit_is_the_image() -> None:
    units = PrivacyUnits.of("patient", NotTold())
    assert (units.kind, len(units)) == ("image", 30)


def test_patients_are_drawn_alike_however_many_images_they_have() -> None:
    units, stream, draws, rate = PrivacyUnits.of("patient", Told()), SecretRandomness(4).stream(0), 4000, 0.3
    patients: Counter[str] = Counter()
    images: Counter[int] = Counter()
    pairs = 0
    for _ in range(draws):
        rows = units.draw(stream, rate)
        drawn = [Told.patient_ids[row] for row in rows]
        assert len(set(drawn)) == len(drawn), "a patient twice in a batch"
        patients.update(drawn)
        images.update(rows)
        pairs += {"0", "9"} <= set(drawn)
    deviation = (draws * rate * (1 - rate)) ** 0.5
    assert all(abs(patients[name] - draws * rate) < 5 * deviation for name in set(Told.patient_ids))
    assert pairs == pytest.approx(draws * rate**2, abs=5 * (draws * rate**2) ** 0.5), "independently of the others"
    for own in units.rows:
        expected = draws * rate / len(own)
        assert all(abs(images[row] - expected) < 5 * expected**0.5 for row in own)


def test_a_units_shares_add_up_to_one() -> None:
    units = PrivacyUnits.of("patient", Told())
    shares = units.shares()
    assert all(float(shares[list(own)].sum()) == pytest.approx(1.0) for own in units.rows)
    assert (PrivacyUnits.images(5).shares() == 1).all()
