"""Label spaces: which outputs there are, how they are trained, and which of them a site knows.

A site has its own space, a federation has the union of its sites' spaces. A label that a site does not have is NaN
in its rows. Shape suffix: Y labels of a space.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medvlmoe.data import known_labels
from medvlmoe.errors import ConfigError

TASKS = ("multilabel", "multiclass", "ordinal")
FINDINGS = "findings"  # the one multilabel block of a union


@dataclass(frozen=True)
class LabelBlock:
    """Labels that belong together.

    Attributes:
        name: name of the block; blocks of equal name and labels are one block in a union.
        task: ``multilabel`` (any of them), ``multiclass`` (exactly one) or ``ordinal`` (exactly one, in order).
        labels: names as in the space; those of a multiclass or ordinal block read ``block/label``.
    """

    name: str
    task: str
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ConfigError(f"label space '{self.name}': task is '{self.task}'; use one of {', '.join(TASKS)}")
        if len(set(self.labels)) != len(self.labels):
            raise ConfigError(f"label space '{self.name}' names a label twice: {', '.join(self.labels)}")
        if len(self.labels) < (2 if self.exclusive else 1):
            raise ConfigError(f"label space '{self.name}' ({self.task}) has only {len(self.labels)} labels")

    @property
    def exclusive(self) -> bool:
        """Whether exactly one label of the block is true."""
        return self.task != "multilabel"


@dataclass(frozen=True)
class LabelSpace:
    """An ordered list of labels, cut into blocks.

    Attributes:
        name: name of the space; a union's name joins its members' with ``+``.
        labels: Y label names, those of the blocks one after the other.
        blocks: the blocks in the order of ``labels``.
    """

    name: str
    labels: tuple[str, ...]
    blocks: tuple[LabelBlock, ...]

    def __post_init__(self) -> None:
        if self.labels != tuple(label for block in self.blocks for label in block.labels):
            raise ConfigError(f"label space '{self.name}': labels are not those of its blocks, in order")
        if len(set(self.labels)) != len(self.labels) or len({b.name for b in self.blocks}) != len(self.blocks):
            raise ConfigError(f"label space '{self.name}' names a label or a block twice")
        if not self.labels:
            raise ConfigError(f"label space '{self.name}' is empty")

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, name: str, *blocks: LabelBlock) -> "LabelSpace":
        """A space from its blocks."""
        return cls(name, tuple(label for block in blocks for label in block.labels), blocks)

    @classmethod
    def single(cls, name: str, task: str, labels: Sequence[str]) -> "LabelSpace":
        """The space of one site: a single block.

        Multilabel names are made canonical; names of classes are qualified with the space's name.
        """
        if "/" in name or "+" in name:
            raise ConfigError(f"label space '{name}': '/' and '+' are not allowed in its name")
        if task == "multilabel":
            slashed = [label for label in labels if "/" in label]
            if slashed:
                raise ConfigError(f"label space '{name}': '/' is not allowed in the label '{slashed[0]}'")
            block = LabelBlock(FINDINGS, task, tuple(known_labels.canonical_label(label) for label in labels))
        else:
            block = LabelBlock(name, task, tuple(f"{name}/{label}" for label in labels))
        return cls.of(name, block)

    @classmethod
    def known(cls, name: str) -> "LabelSpace":
        """The space of a benchmark.

        Raises:
            ConfigError: there is none of that name.
        """
        if name not in KNOWN_SPACES:
            raise ConfigError(f"no known label space '{name}'; known are {', '.join(KNOWN_SPACES)}")
        return KNOWN_SPACES[name]

    @staticmethod
    def union(spaces: Iterable["LabelSpace"]) -> "LabelSpace":
        """All labels of several spaces. The result does not depend on the order of ``spaces``.

        Multilabel names merge into one block ``findings`` (known findings in published order, then by alphabet);
        multiclass and ordinal blocks of equal name, task and labels merge; these follow by name.

        Raises:
            ConfigError: no space given, or one name stands for different classes at two sites.
        """
        members = list(spaces)
        if not members:
            raise ConfigError("a union of label spaces needs at least one site")
        findings: set[str] = set()
        exclusive: dict[str, LabelBlock] = {}
        for block in (block for space in members for block in space.blocks):
            if not block.exclusive:
                findings.update(block.labels)
                continue
            block = LabelBlock(block.name, block.task, tuple(_qualified(block.name, name) for name in block.labels))
            if exclusive.setdefault(block.name, block) != block:
                raise ConfigError(
                    f"two sites use the label space name '{block.name}' for different classes or tasks; rename one"
                )
        blocks = [exclusive[name] for name in sorted(exclusive)]
        if findings:
            ordered = tuple(sorted(findings, key=known_labels.finding_order))
            blocks.insert(0, LabelBlock(FINDINGS, "multilabel", ordered))
        names = {part for space in members for part in space.name.split("+")}
        return LabelSpace.of("+".join(sorted(names)), *blocks)

    def columns(self, block: LabelBlock) -> slice:
        """Where a block's labels stand in the Y axis."""
        start = 0
        for candidate in self.blocks:
            if candidate == block:
                return slice(start, start + len(block.labels))
            start += len(candidate.labels)
        raise ValueError(f"label space '{self.name}' has no block '{block.name}'")

    def positions_of(self, other: "LabelSpace") -> Tensor:
        """Positions of the labels of ``other`` in this space: int64, one for each label of ``other``.

        Raises:
            ConfigError: a label of ``other`` is not in this space.
        """
        position = {label: place for place, label in enumerate(self.labels)}
        names = [
            _qualified(block.name, label) if block.exclusive and label not in position else label
            for block in other.blocks
            for label in block.labels
        ]
        absent = [name for name in names if name not in position]
        if absent:
            raise ConfigError(f"label '{absent[0]}' of space '{other.name}' is not in the label space '{self.name}'")
        return torch.tensor([position[name] for name in names], dtype=torch.int64)

    def to_dict(self) -> dict[str, Any]:
        """Names and tasks as plain JSON values: all that a site tells the server about its labels."""
        blocks = [{"name": block.name, "task": block.task, "labels": list(block.labels)} for block in self.blocks]
        return {"name": self.name, "blocks": blocks}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "LabelSpace":
        """The inverse of :meth:`to_dict`.

        Raises:
            ConfigError: the values do not describe a label space.
        """
        try:
            blocks = [
                LabelBlock(str(block["name"]), str(block["task"]), tuple(str(label) for label in block["labels"]))
                for block in values["blocks"]
            ]
            return LabelSpace.of(str(values["name"]), *blocks)
        except (KeyError, TypeError) as error:
            raise ConfigError(f"not a label space: {type(error).__name__} {error}") from error


def _qualified(block: str, label: str) -> str:
    return label if label.startswith(f"{block}/") else f"{block}/{label}"


KNOWN_SPACES = {
    space.name: space
    for space in (
        LabelSpace.single("chestxray14", "multilabel", known_labels.CHESTXRAY14),
        LabelSpace.single("chexpert", "multilabel", known_labels.CHEXPERT),
        LabelSpace.single("mimic_cxr", "multilabel", known_labels.CHEXPERT),
        LabelSpace.single("colorectal_tissue", "multiclass", known_labels.COLORECTAL_TISSUE),
        LabelSpace.single("diabetic_retinopathy", "ordinal", known_labels.DIABETIC_RETINOPATHY),
    )
}
