"""The site's data: table, images, labels, and whether the policy lets so few train."""

import numpy as np

from client.doctor.finding import Findings, fail, ok, warn
from client.doctor.patient import Patient
from medvlmoe.data.image_shape import ImageShape
from medvlmoe.data.index import SiteIndex
from medvlmoe.data.split import SPLITS
from medvlmoe.errors import DataError

_OPENED = 32
_WORST_SHOWN = 3


def check_data(patient: Patient) -> Findings:
    """The table, some images of it, and the labels of its training part."""
    index = patient.index
    counts = {split: int((index.splits == split).sum()) for split in SPLITS}
    text = ", ".join(f"{count} {split}" for split, count in counts.items())
    empty = [split for split, count in counts.items() if not count]
    if empty:
        yield fail("data", f"{text}{index.left_out_words()}", f"no {empty[0]} records: add patients, or split=patient")
        return
    yield ok("data", f"{text}{index.left_out_words()}")
    yield from _check_images(patient, index)
    train = index.take(np.flatnonzero(index.splits == "train"))
    yield from _check_labels(train)
    yield from _check_cohort(patient, train)


def _check_images(patient: Patient, index: SiteIndex) -> Findings:
    vision = patient.run.model.vision
    shape = ImageShape(1 if index.grayscale else vision.channels, vision.image_size, vision.depth)
    chosen = np.linspace(0, len(index) - 1, min(_OPENED, len(index)), dtype=int).tolist()
    bad = []
    for position in chosen:
        try:
            index.images.decode(position, shape)
        except DataError as error:
            bad.append(str(error))
    if not bad:
        yield ok("images", f"{len(chosen)} of {len(index)} opened")
    elif patient.site.dataset.on_bad_image == "skip" and len(bad) < len(chosen):
        yield warn("images", f"{len(bad)} of {len(chosen)} cannot be opened: {bad[0]}", "they will be left out")
    else:
        mend = "mend or remove them, or set dataset.on_bad_image: skip"
        yield fail("images", f"{len(bad)} of {len(chosen)} cannot be opened: {bad[0]}", mend)


def _check_labels(train: SiteIndex) -> Findings:
    names = train.label_space.labels
    positive_Y, negative_Y = (train.labels_NY > 0.5).sum(axis=0), (train.labels_NY <= 0.5).sum(axis=0)
    one_sided = [name for name, up, down in zip(names, positive_Y, negative_Y, strict=True) if not (up and down)]
    rarest = sorted(zip(positive_Y.tolist(), names, strict=True))[:_WORST_SHOWN]
    text = f"{len(names)} labels; fewest positives: {', '.join(f'{name} {count}' for count, name in rarest)}"
    if len(one_sided) == len(names):
        yield fail("labels", "no label has positive and negative training records", "check the labels of the table")
    elif one_sided:
        yield warn(
            "labels", f"{text}; without both classes: {', '.join(one_sided)}", "nothing is learned of those here"
        )
    else:
        yield ok("labels", text)


def _check_cohort(patient: Patient, train: SiteIndex) -> Findings:
    policy, patients = patient.site.policy, len(set(train.patient_ids))
    text = f"{len(train)} training examples of {patients} patients"
    if len(train) < policy.min_examples or patients < policy.min_patients:
        bounds = f"policy.min_examples={policy.min_examples}, policy.min_patients={policy.min_patients}"
        yield fail("cohort", f"{text}; {bounds}", "every round would be refused: add patients, or change the policy")
    else:
        yield ok("cohort", text)
