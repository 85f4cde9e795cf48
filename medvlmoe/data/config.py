"""Configuration of data sets: which sites there are, where their files lie and how they are read."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medvlmoe.data.audit.config import LeakAuditConfig
from medvlmoe.errors import ConfigError

KINDS = ("chestxray14", "chexpert", "mimic_cxr", "pathmnist", "retinamnist", "manifest")
MODALITIES = ("chest", "pathology", "fundus", "volume")
MEDMNIST_SIZES = (28, 64, 128, 224)
UNCERTAIN_POLICIES = ("ignore", "zeros", "ones", "irvin5", "lsr")
# What decides how labels, text and parts are read, of the kinds of data that have the choice.
_POLICIES = {
    "chestxray14": ("split", "text"),
    "chexpert": ("split", "uncertain", "blank", "views", "text"),
    "mimic_cxr": ("split", "uncertain", "blank", "views", "labeler", "test_labels", "text"),
    "pathmnist": ("size", "text"),
    "retinamnist": ("size", "text"),
    "manifest": ("split", "uncertain", "text"),
}
TEXT_OF_REPORTS = ("report", "redacted")
"""Values of ``text`` with which the model reads what was written about the images: it may name the label."""


@dataclass(kw_only=True)
class DatasetConfig:
    """One site's data.

    Attributes:
        kind: layout of the files: ``chestxray14``, ``chexpert``, ``mimic_cxr``, ``pathmnist``, ``retinamnist``
            (official layouts) or ``manifest`` (a hospital's own table).
        root: folder of the files; a relative one is taken from ``data.root``.
        split: ``official`` (the published lists or the table's split column) or ``patient`` (cut here by patient).
        validation_fraction: share of patients for validation: of all with ``split=patient``, of the training
            patients where the official split has no validation part.
        test_fraction: share of patients for testing with ``split=patient``.
        partition_count: number of hospitals that share this data set, cut by patient.
        partition_index: which of them this site is, from 0.
        allow_subset: images of the table that are not on disk are left out and counted instead of an error.
        on_bad_image: ``error``, or ``skip`` to leave out and count images that cannot be decoded.
        text: ``context`` (leak-free context), ``demographics`` (age, sex, view), ``none`` (a constant prompt),
            ``report`` (the report or note itself: it may name the target) or ``redacted`` (the same without the
            sentences that name a label; it may still give it away). docs/text.md.
        allow_label_leak: must be true for ``text=report`` and ``text=redacted``; their results are stamped LEAKY.
        prompt: constant opening sentence instead of the site's default.
        manifest: for ``kind=manifest``, the YAML file: a path relative to ``root``, or the name of a packaged one.
        size: for MedMNIST, which published resolution to read: 28, 64, 128 or 224.
        uncertain: uncertain labels (-1) become ``zeros``, ``ones``, unknown (``ignore``), by the best binary policy
            of each competition label and else zeros (``irvin5``), or soft targets between 0.55 and 0.85 in training
            and unknown in validation and test (``lsr``).
        label_seed: seed of the soft targets of ``uncertain=lsr``.
        blank: labels that CheXpert and MIMIC-CXR leave blank become ``zeros`` or unknown (``ignore``).
        augmentation: random changes of training images (docs/data-pipeline.md): those of ``chest``, ``pathology``,
            ``fundus`` or ``volume``; ``none``; or ``auto``: what fits the kind, or the manifest's ``modality`` (none
            where it is not told).
        views: for CheXpert and MIMIC-CXR, ``frontal`` or ``all`` images.
        labeler: for MIMIC-CXR, which program's labels to read: ``chexpert`` or ``negbio``.
        test_labels: for MIMIC-CXR, labels of the test split: ``labeler``, or ``radiologist`` (version 2.1.0).
        reports_root: for MIMIC-CXR, where the reports lie if not beside the images: a folder, or
            ``mimic-cxr-reports.zip`` itself; a relative one is taken from ``root``.
    """

    kind: str
    root: str
    split: str = "official"
    validation_fraction: float = 0.1
    test_fraction: float = 0.2
    partition_count: int = 1
    partition_index: int = 0
    allow_subset: bool = False
    on_bad_image: str = "error"
    text: str = "context"
    allow_label_leak: bool = False
    prompt: str | None = None
    manifest: str | None = None
    size: int = 64
    uncertain: str = "zeros"
    label_seed: int = 0
    blank: str = "zeros"
    views: str = "frontal"
    augmentation: str = "auto"
    labeler: str = "chexpert"
    test_labels: str = "labeler"
    reports_root: str | None = None

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, KINDS)
        _one_of("split", self.split, ("official", "patient"))
        _one_of("on_bad_image", self.on_bad_image, ("error", "skip"))
        _one_of("text", self.text, ("context", "demographics", "none", *TEXT_OF_REPORTS))
        _one_of("uncertain", self.uncertain, UNCERTAIN_POLICIES)
        _one_of("blank", self.blank, ("zeros", "ignore"))
        _one_of("views", self.views, ("frontal", "all"))
        _one_of("augmentation", self.augmentation, ("auto", "none", *MODALITIES))
        _one_of("size", self.size, MEDMNIST_SIZES)
        _one_of("labeler", self.labeler, ("chexpert", "negbio"))
        _one_of("test_labels", self.test_labels, ("labeler", "radiologist"))
        for key in ("validation_fraction", "test_fraction"):
            if not 0 < getattr(self, key) < 1:
                raise ConfigError(f"data set {key}={getattr(self, key)}: use a share between 0 and 1")
        if self.validation_fraction + self.test_fraction >= 1:
            raise ConfigError("data set validation_fraction + test_fraction leave nothing for training")
        if not 0 <= self.partition_index < self.partition_count:
            raise ConfigError(
                f"data set partition_index={self.partition_index}: use 0 to {self.partition_count - 1} "
                f"for partition_count={self.partition_count}"
            )
        if self.text in TEXT_OF_REPORTS and not self.allow_label_leak:
            raise ConfigError(
                f"data set text={self.text} may name the target; set allow_label_leak=true to accept that, and that "
                "every result is stamped LEAKY"
            )
        if self.manifest is not None and self.kind != "manifest":
            raise ConfigError(f"data set manifest={self.manifest} needs kind=manifest, not {self.kind}")
        if self.reports_root is not None and self.kind != "mimic_cxr":
            raise ConfigError(f"data set reports_root={self.reports_root} needs kind=mimic_cxr, not {self.kind}")
        if self.text in TEXT_OF_REPORTS and self.kind not in ("mimic_cxr", "manifest"):
            raise ConfigError(f"data set text={self.text}: {self.kind} has no reports")

    def policies(self) -> dict[str, str]:
        """How labels, text and parts are read, by key: what a result must be shown with."""
        return {key: str(getattr(self, key)) for key in _POLICIES[self.kind]}

    def folder(self, data_root: str | Path | None) -> Path:
        """The site's folder: ``root``, taken from ``data_root`` if it is relative."""
        root = Path(self.root).expanduser()
        return root if data_root is None else Path(data_root).expanduser() / root


@dataclass(kw_only=True)
class DataConfig:
    """All sites of a run.

    Attributes:
        root: folder that relative site roots are taken from; ``None`` means the working folder.
        cache: folder of decoded images; ``None`` leaves the choice to the command.
        workers: threads that decode images into the cache; ``None`` takes every core the process may use.
        leak_audit: how much the text alone may tell of the labels before a run is refused (docs/text.md).
        augment: ``false`` trains every site on its images as they are, whatever its ``augmentation``.
        sites: name of a site -> its data.
    """

    root: str | None = None
    cache: str | None = None
    workers: int | None = None
    augment: bool = True
    leak_audit: LeakAuditConfig = field(default_factory=LeakAuditConfig)
    sites: dict[str, DatasetConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.sites:
            if not name.strip() or name.startswith(".") or "/" in name or "\\" in name or not name.isprintable():
                raise ConfigError(f"data.sites: the name '{name}' also names a folder; use letters, digits, '_', '-'")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"data.workers={self.workers}: use a whole number of at least 1, or null for every core")
        if self.cache is not None:
            self.cache = str(Path(self.cache).expanduser())


def _one_of(key: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise ConfigError(f"data set {key}={value}: use one of {', '.join(map(str, allowed))}")
