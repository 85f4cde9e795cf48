"""The YAML file that says what the columns of a hospital's table mean (docs/manifest.md)."""

import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from medvlmoe.data.config import MODALITIES, DatasetConfig
from medvlmoe.data.intensity import AUTOMATIC, Intensity
from medvlmoe.data.known_labels import canonical_label
from medvlmoe.data.labels import KNOWN_SPACES, TASKS, LabelSpace
from medvlmoe.errors import ConfigError

OPENING = "Medical image"
_CONTEXT = ("age", "sex", "view")
_KIND_WORDS: dict[type, str] = {dict: "a mapping", str: "a text", list: "two numbers: [a, b]"}


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
    intensity: Intensity = AUTOMATIC
    modality: str | None = None
    synonyms: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def columns(self) -> list[str]:
        """Every column that the table must have."""
        optional = (self.text, self.patient, self.study, self.split, self.class_column)
        return [self.image, *(name for name in optional if name), *self.labels, *self.context.values()]


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
        raise ConfigError(f"{root / name}: cannot be read ({error}); save it as UTF-8") from error
    raise ConfigError(f"no manifest {root / name}, and none named '{name}' is packaged; see docs/manifest.md")


def _checked(path: str, values: dict[str, Any]) -> Manifest:
    kinds: dict[str, type] = {"labels": dict, "classes": dict, "context": dict, "synonyms": dict}
    kinds |= {"window": list, "percentiles": list}
    for key in ("table", "image", "task", "label_space", "text", "patient", "study", "split", "class", "prompt",
                "encoding", "modality"):  # fmt: skip
        kinds[key] = str
    for key, value in values.items():
        if key not in kinds:
            raise ConfigError(f"{path}: unknown key '{key}'; there are {', '.join(kinds)}")
        if not isinstance(value, kinds[key]):
            raise ConfigError(f"{path}: '{key}' must be {_KIND_WORDS[kinds[key]]}")
    for key in ("table", "image", "task", "label_space"):
        if key not in values:
            raise ConfigError(f"{path}: the key '{key}' is missing")
    mappings = {key: _texts_of(path, key, values.get(key, {})) for key in ("labels", "classes", "context")}
    if values.get("modality", MODALITIES[0]) not in MODALITIES:
        raise ConfigError(f"{path}: modality is '{values['modality']}'; use one of {', '.join(MODALITIES)}")
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
        intensity=_intensity(path, values),
        modality=values.get("modality"),
        synonyms=_synonyms(path, values.get("synonyms", {}), space),
    )
    _refuse_leaks(manifest)
    return manifest


def _intensity(path: str, values: Mapping[str, Any]) -> Intensity:
    pairs = {key: values[key] for key in ("window", "percentiles") if key in values}
    for key, pair in pairs.items():
        if len(pair) != 2 or not all(isinstance(part, int | float) and not isinstance(part, bool) for part in pair):
            raise ConfigError(f"{path}: '{key}' must be two numbers: [a, b]")
    try:
        return Intensity(**{key: (float(pair[0]), float(pair[1])) for key, pair in pairs.items()})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _texts_of(path: str, key: str, values: Mapping[Any, Any]) -> dict[str, str]:
    for name, value in values.items():
        if isinstance(name, bool):
            raise ConfigError(f"{path}: '{key}': YAML reads yes and no as true and false; put quotes around them")
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise ConfigError(f"{path}: '{key}: {name}' must be a text")
    return {str(name): str(value) for name, value in values.items()}


def _synonyms(path: str, values: Mapping[Any, Any], space: LabelSpace) -> dict[str, tuple[str, ...]]:
    own = {label.rpartition("/")[2] for label in space.labels}
    found = {}
    for name, terms in values.items():
        label = canonical_label(str(name))
        if label not in own:
            raise ConfigError(f"{path}: synonyms of '{name}', which is none of the labels {', '.join(sorted(own))}")
        if not isinstance(terms, list) or not all(isinstance(term, str) and term.strip(" *") for term in terms):
            raise ConfigError(
                f"{path}: the synonyms of '{name}' must be a list of texts, such as [effusion*, hydrothorax]"
            )
        found[label] = tuple(terms)
    return found


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
