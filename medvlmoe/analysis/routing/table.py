"""Routing of test samples as one table. Shape suffixes: N samples, K experts, Y labels."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.files import load_tensors, save_tensors

_ARRAYS = ("weight_NK", "gate_N2", "labels_NY", "site_N", "patient_N")


@dataclass(frozen=True, kw_only=True)
class RoutingTable:
    """Where each sample was sent. Patients are numbered: their identifiers are not in it.

    Attributes:
        weight_NK: weights of the experts; each row sums to 1, experts that were not chosen have 0.
        gate_N2: the gate's weights of image and text, each between 0 and 1.
        labels_NY: 0, 1 or NaN (unknown, or not a label of the sample's site).
        site_N: number of the sample's site in ``sites``.
        patient_N: number of the sample's patient; no two sites share one.
        labels: Y names.
        sites: names.
        top_k: experts that a sample is sent to.
        stamps: of the data and the model.
    """

    weight_NK: npt.NDArray[np.float64]
    gate_N2: npt.NDArray[np.float64]
    labels_NY: npt.NDArray[np.float32]
    site_N: npt.NDArray[np.int64]
    patient_N: npt.NDArray[np.int64]
    labels: tuple[str, ...]
    sites: tuple[str, ...]
    top_k: int
    stamps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rows = {len(getattr(self, name)) for name in _ARRAYS}
        if len(rows) != 1 or self.labels_NY.shape[1:] != (len(self.labels),):
            raise ConfigError("a routing table needs as many rows in each array, and a name for each label")
        if len(self) and not np.allclose(self.weight_NK.sum(axis=1), 1, atol=1e-4):
            raise ConfigError("a routing table's expert weights must sum to 1 in each row")

    def __len__(self) -> int:
        return len(self.site_N)

    @property
    def experts(self) -> int:
        """K, the number of experts."""
        return self.weight_NK.shape[1]

    @property
    def uniform_weight(self) -> float:
        """An expert's share of the weight if routing were uniform: 1/K."""
        return 1 / self.experts

    @property
    def uniform_samples(self) -> float:
        """The share of samples that an expert would see if routing were uniform: top-k/K."""
        return self.top_k / self.experts

    def take(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> "RoutingTable":
        """Some of the samples; patients are numbered anew."""
        arrays = {name: getattr(self, name)[rows] for name in _ARRAYS}
        arrays["patient_N"] = np.unique(arrays["patient_N"], return_inverse=True)[1].astype(np.int64)
        return RoutingTable(
            **arrays,
            labels=self.labels,
            sites=self.sites,
            top_k=self.top_k,
            stamps=self.stamps,
        )

    def save(self, path: Path) -> None:
        """Write the table as safetensors, atomically."""
        facts = {"labels": self.labels, "sites": self.sites, "top_k": self.top_k, "stamps": self.stamps}
        save_tensors(
            path,
            {name: torch.from_numpy(getattr(self, name)) for name in _ARRAYS},
            {name: json.dumps(value) for name, value in facts.items()},
        )

    @classmethod
    def read(cls, path: Path) -> "RoutingTable":
        """The table that :meth:`save` wrote.

        Raises:
            CheckpointError: the file is missing, damaged or no routing table.
        """
        tensors, facts = load_tensors(path)
        try:
            return cls(
                **{name: tensors[name].numpy() for name in _ARRAYS},
                labels=tuple(json.loads(facts["labels"])),
                sites=tuple(json.loads(facts["sites"])),
                top_k=int(json.loads(facts["top_k"])),
                stamps=tuple(json.loads(facts["stamps"])),
            )
        except (KeyError, ValueError, TypeError, ConfigError) as error:
            raise CheckpointError(f"{path} is not a routing table ({error}); collect it again") from error


def number_patients(site_N: Sequence[int], patient_ids: Sequence[str]) -> npt.NDArray[np.int64]:
    """A number for each patient of each site, by first appearance: equal identifiers of two sites are two patients."""
    numbers: dict[tuple[int, str], int] = {}
    return np.array(
        [numbers.setdefault(key, len(numbers)) for key in zip(site_N, patient_ids, strict=True)], dtype=np.int64
    )
