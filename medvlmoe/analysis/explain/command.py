"""The command ``medvlmoe explain``."""

from dataclasses import dataclass
from pathlib import Path

from medvlmoe.analysis.explain.explanation import Explanation, explain_image, find_block
from medvlmoe.analysis.explain.picture import draw_explanation
from medvlmoe.analysis.figures.style import save_picture
from medvlmoe.configuration import compose, to_yaml
from medvlmoe.data.intensity import Intensity
from medvlmoe.data.known_labels import SPACE_OF_KIND
from medvlmoe.data.labels import FINDINGS, LabelBlock
from medvlmoe.data.loaders import chestxray14, chexpert, medmnist
from medvlmoe.data.text import age_words, prompt, sex_words, view_words
from medvlmoe.errors import ConfigError, DataError
from medvlmoe.model.medvlmoe import MedVLMoE
from medvlmoe.trained_model import TrainedModel
from medvlmoe.training.device import resolve_device

_USAGE = """medvlmoe explain checkpoint=FILE image=FILE [key=value ...]
One picture: the image, where the model looked, which experts it used, the gate, the probabilities.
    medvlmoe explain checkpoint=runs/quickstart/checkpoints/final.safetensors image=chest.dcm \\
        block=findings label=Effusion age=57 sex=F view=PA output=chest-explained.png
Not for clinical use. Keys and defaults:"""
_ENDINGS = (".png", ".svg", ".pdf")
_OPENINGS = {
    FINDINGS: chestxray14.OPENING,
    **{SPACE_OF_KIND[kind]: opening for kind, opening in medmnist.OPENING.items()},
}


@dataclass(kw_only=True)
class ExplainConfig:
    """What ``medvlmoe explain`` explains.

    Attributes:
        checkpoint: ``final.safetensors`` of a run.
        image: a PNG, JPEG, TIFF or DICOM file; for models of volumes a NIfTI file or a folder of DICOM slices.
        block: which labels the image is about, where the model has several kinds (``findings``, …).
        label: the label whose Grad-CAM is drawn; ``None``: the most probable one of the block.
        text: all that the model reads about the image; ``None``: ``prompt``, ``view``, ``age`` and ``sex``.
        prompt: the opening sentence, as in the site's manifest; ``None``: that of the block's benchmark.
        age: in years.
        sex: ``F`` or ``M``.
        view: ``PA``, ``AP``, ``lateral``, …
        window: [center, width] of grey values, as in the site's manifest.
        percentiles: [low, high] of grey values, likewise.
        output: the picture (.png, .svg or .pdf); ``None``: ``<image>-explained.png`` in the working folder.
        device: ``auto``, ``cpu``, ``cuda`` …
    """

    checkpoint: str | None = None
    image: str | None = None
    block: str | None = None
    label: str | None = None
    text: str | None = None
    prompt: str | None = None
    age: str | None = None
    sex: str | None = None
    view: str | None = None
    window: list[float] | None = None
    percentiles: list[float] | None = None
    output: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        given = [key for key in ("prompt", "age", "sex", "view") if getattr(self, key) is not None]
        if self.text is not None and given:
            raise ConfigError(f"text is all that the model reads; leave {given[0]} out, or write it into text")
        for key, words in (("age", age_words), ("sex", sex_words), ("view", view_words)):
            value = getattr(self, key)
            if value is not None and not words(value):
                raise ConfigError(f"{key}={value}: no data set would tell the model so; leave it out or correct it")
        for key in ("window", "percentiles"):
            value = getattr(self, key)
            if value is not None and len(value) != 2:
                raise ConfigError(f"{key}={value}: give two numbers")
        if self.output is not None and Path(self.output).suffix.lower() not in _ENDINGS:
            raise ConfigError(f"output={self.output}: end its name in {', '.join(_ENDINGS)}")


def explain(arguments: list[str]) -> int:
    """Run ``medvlmoe explain``: write one picture and print its numbers.

    Raises:
        ConfigError: an unknown key or label, or something is missing.
        CheckpointError: the checkpoint is no finished model.
        DataError: the image cannot be read.
    """
    if any(argument in ("-h", "--help") for argument in arguments):
        print(f"{_USAGE}\n\n{to_yaml(ExplainConfig())}", end="")
        return 0
    config = compose(ExplainConfig, arguments, config_name="explain")
    if config.checkpoint is None or config.image is None:
        raise ConfigError("say which model and which image: checkpoint=runs/…/checkpoints/final.safetensors image=…")
    image = Path(config.image).expanduser()
    if not image.exists():
        raise ConfigError(f"image={config.image}: no such file")
    trained = TrainedModel.describe(Path(config.checkpoint))
    block, label = find_block(trained.label_space, config.block, config.label)
    opening = prompt(_opening(config, block))
    model = trained.load()
    if not isinstance(model, MedVLMoE):
        raise ConfigError(f"{trained.path}: the model has no experts, and explain is for those that have")
    try:
        found = explain_image(
            model,
            trained.label_space,
            image,
            block=block,
            label=label,
            text=config.text if config.text is not None else _text(config, block),
            opening=opening,
            intensity=Intensity(_pair(config.window), _pair(config.percentiles)),
            device=resolve_device(config.device),
        )
    except DataError as error:  # its mend is for a data set of many images
        raise DataError(f"{str(error).rpartition('; ')[0] or error}; give another image") from error
    output = Path(config.output).expanduser() if config.output else Path(f"{image.name.split('.')[0]}-explained.png")
    free_text = config.text is not None
    save_picture(draw_explanation(found, image.name, str(trained.path), trained.stamps, free_text=free_text), output)
    print(_lines(found))
    print(output)
    return 0


def _text(config: ExplainConfig, block: LabelBlock) -> str:
    facts = {key: getattr(config, key) or "" for key in ("view", "age", "sex")}
    return prompt(_opening(config, block), **facts)


def _opening(config: ExplainConfig, block: LabelBlock) -> str:
    if config.prompt is not None:
        return config.prompt
    if block.name == FINDINGS and config.view is not None and view_words(config.view) == "lateral":
        return chexpert.OPENING  # ChestX-ray14 has frontal images only
    if block.name in _OPENINGS:
        return _OPENINGS[block.name]
    if config.text is not None:
        return "Medical image"
    raise ConfigError(f"say what the model reads about {block.name}: prompt=… as in the site's manifest, or text=…")


def _pair(values: list[float] | None) -> tuple[float, float] | None:
    return None if values is None else (values[0], values[1])


def _lines(found: Explanation) -> str:
    experts = ", ".join(
        f"expert {number} {100 * weight:.0f} %" for number, weight in enumerate(found.expert_weight_K) if weight > 0
    )
    share = found.image_share
    return (
        f"{found.label}: {found.probability[found.label]:.3f} "
        f"(without patient text {found.without_text:.3f}, without image {found.without_image:.3f})\n{experts}\n"
        + ("no gate" if share is None else f"gate: image {100 * share:.0f} %, text {100 - 100 * share:.0f} %")
    )
