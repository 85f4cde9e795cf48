"""What the card of a comparison model says that MedVLMoE's does not: encoders, what it reads, its two stages."""

from typing import Any

from medvlmoe.analysis.reproduction.paper_values import TITLES
from medvlmoe.baselines import BaselineConfig
from medvlmoe.model.config import MedVLMoEConfig

_SOURCES = {
    "convirt": "Zhang et al. 2020, arXiv 2010.00747",
    "gloria": "Huang et al. 2021, ICCV",
    "biovil": "Boecking et al. 2022, arXiv 2204.09817, global alignment only",
    "clip_med": "read as MedCLIP, Wang et al. 2022, arXiv 2210.10163",
    "biobert_vqa": "read as VGG16, BioBERT and MFH, VQA-Med 2021, CEUR 2936-120",
}
_PAIRED_WITH = {
    "report": "the reports of the same records, a training target that nothing reads afterwards",
    "context": "the text that MedVLMoE reads of the same records",
    "captions": "captions made from the labels of the same records",
}


def comparison_model(config: BaselineConfig, model: MedVLMoEConfig, paired_with: str | None) -> dict[str, Any]:
    """The words of its card.

    Args:
        config: the comparison model.
        model: MedVLMoE's configuration: the shared encoders.
        paired_with: what the images were paired with before the training on labels: ``report``, ``context`` or
            ``captions``; ``None``: there was no such stage.

    Returns:
        ``title``, ``source``, ``image_encoder``, ``text_encoder``, ``at_test``, ``first_stage``, ``second_stage``, and
        ``random``: whether both encoders started from random weights.
    """
    shared = config.backbone == "shared"
    image = model.vision if shared else config.image
    text = model.text if shared else config.text
    whose = ", MedVLMoE's own" if shared else ""
    kind = model.text.encoder if shared else "BERT"
    return {
        "title": TITLES[config.name],
        "source": _SOURCES[config.name],
        "image_encoder": f"{image.backbone}{whose}; weights: {image.weights or 'random'}",
        "text_encoder": f"{kind}{whose}, {text.layers} layers; weights: {text.weights or 'random'}",
        "at_test": _at_test(config),
        "first_stage": _first_stage(config, paired_with),
        "second_stage": f"on the labels, {_learning(config)}",
        "random": image.weights is None and text.weights is None,
    }


def _at_test(config: BaselineConfig) -> str:
    if config.name == "biobert_vqa":
        question = f"image and the question '{config.biobert_vqa.question}'"
        return f"{question}, followed by the text" if config.reads_text else f"{question}; no text of a record"
    return "image and text" if config.reads_text else "the image alone, as published; the text encoder is not used"


def _learning(config: BaselineConfig) -> str:
    if config.fine_tune == "full":
        return "all that a prediction passes through"
    parts = "head and fusion" if config.name == "biobert_vqa" else "the head alone"
    return f"{parts}: both encoders are frozen"


def _first_stage(config: BaselineConfig, paired_with: str | None) -> str:
    if config.name == "biobert_vqa":
        return "none: the method has no contrastive stage"
    if paired_with is None:
        return "none: the contrastive stage was left out (baseline.pretraining.epochs=0)"
    stage = config.pretraining
    epochs = f"{stage.epochs} epoch{'' if stage.epochs == 1 else 's'}"
    drawn = "; images and texts drawn apart, as alike as their labels" if config.name == "clip_med" else ""
    return (
        f"contrastive, {epochs} on the training images below with {_PAIRED_WITH[paired_with]}{drawn}; "
        f"AdamW {stage.learning_rate}, weight decay {stage.weight_decay}, batch {stage.batch_size}"
    )
