"""A hospital's own table: a CSV of images, and a YAML file that says which column means what (docs/manifest.md)."""

import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml

from medvlmoe.data.config import DatasetConfig
from medvlmoe.data.images import ImageFiles
from medvlmoe.data.index import SiteIndex
from medvlmoe.data.known_labels import canonical_label
from medvlmoe.data.labels import KNOWN_SPACES, TASKS, LabelSpace
from medvlmoe.data.loaders.columns import UNCERTAIN, binary_values, missing_images, one_hot, refuse_value
from medvlmoe.data.loaders.columns import splits_by_value as read_splits
from medvlmoe.data.split import TEST, TRAIN, VALIDATION
from medvlmoe.data.tables import read_table
from medvlmoe.data.text import prompts
from medvlmoe.errors import ConfigError

OPENING = "Medical image"
_CONTEXT = ("age", "sex", "view")
_SPLIT_WORDS = {
    "train": TRAIN, "training": TRAIN,
    "validation": VALIDATION, "valid": VALIDATION, "val": VALIDATION, "validate": VALIDATION, "dev": VALIDATION,
    "test": TEST, "testing": TEST,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The YAML file; docs/manifest.md explains each key.

    ``class_column`` is written ``class``, and ``class_names`` is ``classes``: value in the table -> label.
    """

    path: str
    table: str
    image: str
    task: str
    label_space: LabelSpace
    text: str | None = None
    patient: str | None = None
    study: str | None = None
    split: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    class_column: str | None = None
    class_names: dict[str, str] = field(default_factory=dict)
    context: dict[str, str] = field(default_factory=dict)
    prompt: str = OPENING
    encoding: str | None = None

    def columns(self) -> list[str]:
        """Every column that the table must have."""
        optional = (self.text, self.patient, self.study, self.split, self.class_column)
        return [self.image, *(name for name in optional if name), *self.labels, *self.context.values()]


def read(config: DatasetConfig, root: Path) -> SiteIndex:
    """The records of a hospital's table, in its order.

    Raises:
        DataError: the table or an image is missing or malformed.
        ConfigError: the manifest is missing or malformed, or does not fit the configuration.
    """
    manifest = load_manifest(config, root)
    path = root / manifest.table
    table = read_table(
        path, manifest.columns(), encoding=manifest.encoding, declare=f"declare its 'encoding' in {manifest.path}"
    )
    names = table[manifest.image].tolist()
    patients = table[manifest.patient].tolist() if manifest.patient else names
    files = [root / name for name in names]
    index = SiteIndex(
        root=root,
        images=ImageFiles(files),
        labels_NY=_labels(manifest, path, table, UNCERTAIN[config.uncertain]),
        # a record without a patient id is a patient of its own
        patient_ids=[patient or f"image {name}" for patient, name in zip(patients, names, strict=True)],
        study_ids=table[manifest.study].tolist() if manifest.study else names,
        texts=_texts(manifest, config, table),
        splits=_splits(manifest, config, path, table),
        label_space=manifest.label_space,
        grayscale=False,
        notes={"patients": "told by the table" if manifest.patient else "not told: every image is its own"},
    )
    present = np.array([file.is_file() for file in files], dtype=bool)
    return index.leave_out("image not on disk", missing_images(config, root, names, present))


def load_manifest(config: DatasetConfig, root: Path) -> Manifest:
    """Read and check the YAML file: a path below ``root``, or the name of a packaged one.

    Raises:
        ConfigError: it is missing, malformed, or has an unknown or contradictory key.
    """
    name = config.manifest or "manifest.yaml"
    text, path = _find(name, root)
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: not a mapping of keys; see docs/manifest.md")
    return _checked(path, {str(key): value for key, value in values.items()})


def _find(name: str, root: Path) -> tuple[str, str]:
    try:
        if (root / name).is_file():
            return (root / name).read_text(encoding="utf-8"), str(root / name)
        packaged = importlib.resources.files("configs") / "manifests" / f"{name}.yaml"
        if packaged.is_file():
            return packaged.read_text(encoding="utf-8"), f"configs/manifests/{name}.yaml"
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"manifest {name}: cannot be read ({error})") from error
    raise ConfigError(f"no manifest {root / name}, and none named '{name}' is packaged; see docs/manifest.md")


def _checked(path: str, values: dict[str, Any]) -> Manifest:
    kinds: dict[str, type] = {"labels": dict, "classes": dict, "context": dict}
    for key in ("table", "image", "task", "label_space", "text", "patient", "study", "split", "class", "prompt",
                "encoding"):  # fmt: skip
        kinds[key] = str
    for key, value in values.items():
        if key not in kinds:
            raise ConfigError(f"{path}: unknown key '{key}'; there are {', '.join(kinds)}")
        if not isinstance(value, kinds[key]):
            raise ConfigError(f"{path}: '{key}' must be {'a mapping' if kinds[key] is dict else 'a text'}")
    for key in ("table", "image", "task", "label_space"):
        if key not in values:
            raise ConfigError(f"{path}: the key '{key}' is missing")
    mappings = {key: _texts_of(path, key, values.get(key, {})) for key in ("labels", "classes", "context")}
    space, classes = _label_space(path, values, mappings["labels"], mappings["classes"])
    manifest = Manifest(
        path=path,
        table=values["table"],
        image=values["image"],
        task=values["task"],
        label_space=space,
        text=values.get("text"),
        patient=values.get("patient"),
        study=values.get("study"),
        split=values.get("split"),
        labels={column: canonical_label(label) for column, label in mappings["labels"].items()},
        class_column=values.get("class"),
        class_names=classes,
        context=mappings["context"],
        prompt=values.get("prompt", OPENING),
        encoding=values.get("encoding"),
    )
    _refuse_leaks(manifest)
    return manifest


def _texts_of(path: str, key: str, values: Mapping[Any, Any]) -> dict[str, str]:
    for name, value in values.items():
        if isinstance(name, bool):
            raise ConfigError(f"{path}: '{key}': YAML reads yes and no as true and false; put quotes around them")
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise ConfigError(f"{path}: '{key}: {name}' must be a text")
    return {str(name): str(value) for name, value in values.items()}


def _label_space(
    path: str, values: Mapping[str, Any], labels: dict[str, str], classes: dict[str, str]
) -> tuple[LabelSpace, dict[str, str]]:
    task, name = values["task"], values["label_space"]
    if task not in TASKS:
        raise ConfigError(f"{path}: task is '{task}'; use one of {', '.join(TASKS)}")
    needed, unwanted = (("labels",), ("class", "classes")) if task == "multilabel" else (("class",), ("labels",))
    for key in needed:
        if key not in values:
            raise ConfigError(f"{path}: task {task} needs the key '{key}'")
    for key in unwanted:
        if key in values:
            raise ConfigError(f"{path}: the key '{key}' does not belong to task {task}")
    known = name in KNOWN_SPACES
    if known:
        space = LabelSpace.known(name)
    else:
        names = list(labels.values()) if task == "multilabel" else list(dict.fromkeys(classes.values()))
        if not names:
            raise ConfigError(f"{path}: the new label space '{name}' needs its classes: {{value: label}}")
        space = LabelSpace.single(name, task, names)
    block = space.blocks[0]
    if known and block.task != task:
        raise ConfigError(f"{path}: label space '{name}' is {block.task}, not {task}")
    if task == "multilabel":
        chosen = [canonical_label(label) for label in labels.values()]
    else:
        own = [label.removeprefix(f"{name}/") for label in block.labels]
        classes = classes or {str(grade): label for grade, label in enumerate(own)}
        chosen = [f"{name}/{label}" for label in classes.values()]
    for label in chosen:
        if label not in space.labels:
            raise ConfigError(f"{path}: '{label}' is not in the label space {name}: {', '.join(space.labels)}")
    if task == "multilabel" and len(set(chosen)) != len(chosen):
        raise ConfigError(f"{path}: two columns stand for the same label")
    return space, classes


def _refuse_leaks(manifest: Manifest) -> None:
    unknown = [key for key in manifest.context if key not in _CONTEXT]
    if unknown:
        raise ConfigError(f"{manifest.path}: context '{unknown[0]}'; use {', '.join(_CONTEXT)}")
    told = {*manifest.labels, manifest.class_column, manifest.text}
    for key, column in manifest.context.items():
        if column in told:
            raise ConfigError(f"{manifest.path}: context {key}: {column} is a column of the target or the text")


def _labels(manifest: Manifest, path: Path, table: pd.DataFrame, uncertain: float) -> npt.NDArray[np.float32]:
    space = manifest.label_space
    if manifest.class_column:
        position = {label: place for place, label in enumerate(space.labels)}
        places = {
            value: position[f"{space.blocks[0].name}/{label}"] for value, label in manifest.class_names.items()
        } | {"": -1}
        return one_hot(_classes(path, table, manifest.class_column, places), len(space))
    labels_NY = np.full((len(table), len(space)), np.nan, dtype=np.float32)
    for column, label in manifest.labels.items():
        labels_NY[:, space.labels.index(label)] = binary_values(
            path, table, column, uncertain=uncertain, blank=float("nan")
        )
    return labels_NY


def _classes(path: Path, table: pd.DataFrame, column: str, places: dict[str, int]) -> npt.NDArray[np.int64]:
    # tables saved by spreadsheets write the grade 2 as 2.0
    known = {value: places.get(value, places.get(value.removesuffix(".0"))) for value in table[column].unique()}
    for value, place in known.items():
        if place is None:
            allowed = ", ".join(name for name in places if name)
            refuse_value(path, table, column, value, f"{allowed}, or empty (unknown)")
    return table[column].map(known).to_numpy(dtype=np.int64)


def _splits(manifest: Manifest, config: DatasetConfig, path: Path, table: pd.DataFrame) -> npt.NDArray[np.str_]:
    if config.split == "patient":
        return np.full(len(table), TRAIN, dtype="<U10")
    if manifest.split is None:
        raise ConfigError(f"{manifest.path} names no split column; set split=patient to cut the data by patient")
    return read_splits(path, table, manifest.split, _SPLIT_WORDS)


def _texts(manifest: Manifest, config: DatasetConfig, table: pd.DataFrame) -> list[str]:
    if config.text == "report":
        if manifest.text is None:
            raise ConfigError(f"text=report, but {manifest.path} names no text column")
        return table[manifest.text].tolist()
    nothing = [""] * len(table)
    columns = {key: table[manifest.context[key]].tolist() if key in manifest.context else nothing for key in _CONTEXT}
    return prompts(
        config.text, config.prompt or manifest.prompt, views=columns["view"], ages=columns["age"], sexes=columns["sex"]
    )
