"""What becomes of uncertain and unmentioned labels. Shape suffixes: N records, Y labels.

The labels of CheXpert and MIMIC-CXR come from reports: 1 (mentioned as present), 0 (as absent), -1 (as uncertain),
blank (not mentioned). Irvin et al. 2019 compare policies for the uncertain ones; blank counts as 0 there.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medvlmoe.data.config import DatasetConfig

UNCERTAIN = -1.0  # NaN is blank

# The binary policy that did best on the validation part for each competition label (Irvin et al. 2019, as used by
# GLoRIA, gloria/constants.py); every other label: zeros.
_IRVIN_ONES = ("Atelectasis", "Edema")
# Label smoothing of U-Ones: Pham et al. 2021, "Interpreting chest X-rays via CNNs that exploit hierarchical disease
# dependencies and uncertainty labels".
_SMOOTHED = (0.55, 0.85)


def resolve_blank(codes_NY: npt.NDArray[np.float32], config: DatasetConfig) -> npt.NDArray[np.float32]:
    """Blank labels (NaN) as ``blank`` says: 0, or still unknown."""
    return np.nan_to_num(codes_NY, nan=0.0) if config.blank == "zeros" else codes_NY


def resolve_uncertain(
    codes_NY: npt.NDArray[np.float32], labels: Sequence[str], names: Sequence[str], config: DatasetConfig
) -> npt.NDArray[np.float32]:
    """Uncertain labels (-1) as ``uncertain`` says.

    With ``lsr`` an uncertain label becomes a number between 0.55 and 0.85 that depends on ``label_seed``, the
    record's name and the label alone. :func:`medvlmoe.data.index.arrange` keeps such soft targets out of validation
    and test.

    Args:
        codes_NY: 1, 0, -1 (uncertain) or NaN.
        labels: Y names.
        names: N names of the records, unlike each other.
        config: ``uncertain`` and ``label_seed``.

    Returns:
        float32: 0 to 1, or NaN for unknown.
    """
    labels_NY = codes_NY.copy()
    uncertain_NY = codes_NY == UNCERTAIN
    if config.uncertain == "lsr":
        rows, columns = np.nonzero(uncertain_NY)
        labels_NY[rows, columns] = [
            _smoothed(config.label_seed, names[row], labels[column])
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        ]
        return labels_NY
    for column, label in enumerate(labels):
        labels_NY[uncertain_NY[:, column], column] = _constant(config.uncertain, label)
    return labels_NY


def _constant(policy: str, label: str) -> float:
    if policy == "irvin5":
        return float(label in _IRVIN_ONES)
    return {"zeros": 0.0, "ones": 1.0, "ignore": float("nan")}[policy]


def _smoothed(seed: int, name: str, label: str) -> float:
    digest = hashlib.sha256(f"medvlmoe lsr/{seed}/{label}/{name}".encode()).digest()
    low, high = _SMOOTHED
    return low + (high - low) * (int.from_bytes(digest[:8], "big") >> 11) / 2**53
