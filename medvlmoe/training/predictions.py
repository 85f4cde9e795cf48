"""A model's scores on a set of rows, kept for paired tests and figures. Shape suffixes: N rows, Y labels."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from medvlmoe.data.demographics import Demographics
from medvlmoe.data.labels import LabelSpace
from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.files import load_tensors, save_tensors


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Scores beside the truth, rows in the data set's order.

    Attributes:
        scores_NY: probabilities, float64.
        labels_NY: float32: 0, 1 or NaN (unknown); one-hot inside a multiclass or ordinal block.
        patient_ids: N patients.
        label_space: the labels of the Y axis.
        loss: the training loss on these rows; ``None`` without any known label.
        demographics: age, sex and view of N rows; ``None`` where the data tell nothing.
    """

    scores_NY: Tensor
    labels_NY: Tensor
    patient_ids: Sequence[str]
    label_space: LabelSpace
    loss: float | None = None
    demographics: Demographics | None = None


def save_predictions(path: Path, predictions: Predictions) -> None:
    """Write a safetensors file: ``scores_NY``, ``labels_NY``, and the patients in its metadata.

    The patients' identifiers are the site's own: the file belongs beside the site's data and goes nowhere.
    """
    metadata = {
        "label_space": json.dumps(predictions.label_space.to_dict()),
        "patient_ids": json.dumps(list(predictions.patient_ids)),
        "loss": json.dumps(predictions.loss),
        "demographics": json.dumps(None if predictions.demographics is None else predictions.demographics.to_dict()),
    }
    save_tensors(path, {"scores_NY": predictions.scores_NY, "labels_NY": predictions.labels_NY}, metadata)


def load_predictions(path: Path) -> Predictions:
    """Read what :func:`save_predictions` wrote.

    Raises:
        CheckpointError: the file is missing, damaged, or no file of predictions.
    """
    tensors, metadata = load_tensors(path)
    try:
        told = json.loads(metadata.get("demographics", "null"))
        predictions = Predictions(
            scores_NY=tensors["scores_NY"],
            labels_NY=tensors["labels_NY"],
            patient_ids=[str(patient) for patient in json.loads(metadata["patient_ids"])],
            label_space=LabelSpace.from_dict(json.loads(metadata["label_space"])),
            loss=json.loads(metadata["loss"]),
            demographics=None if told is None else Demographics(**told),
        )
    except (KeyError, ValueError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{path} does not hold predictions: {error}") from error
    rows = torch.Size((len(predictions.patient_ids), len(predictions.label_space)))
    if predictions.scores_NY.shape != rows or predictions.labels_NY.shape != rows:
        raise CheckpointError(f"{path} does not hold predictions: scores, labels and patients differ in number")
    return predictions
