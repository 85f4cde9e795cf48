"""The paper's comparison models on simulated sites: stage A before the ordinary training, and what a result says."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from torch import nn

from client.resident import load_dataset
from medvlmoe.baselines.build import freeze_encoders
from medvlmoe.baselines.captions import with_captions
from medvlmoe.baselines.contrastive import ContrastiveBaseline
from medvlmoe.baselines.encoders import baseline_text, baseline_vision
from medvlmoe.baselines.pretraining import pretrain
from medvlmoe.data import SiteDataset
from medvlmoe.data.tokenizer import load_tokenizer
from medvlmoe.model import MedVLMoEConfig, image_normalisation
from medvlmoe.training.device import resolve_device
from simulation.sites import SimulatedSites
from strategies.run_config import RunConfig

logger = logging.getLogger(__name__)


def prepare_baseline(
    model: nn.Module, config: RunConfig, sites: SimulatedSites, name: str, checkpoint_folder: Path
) -> None:
    """Stage A on the training rows of site ``name``, then what stage B shall not train is frozen.

    Raises:
        ConfigError: the site has no reports to pair its images with, or a setting does not fit.
        DataError: the reports cannot be read.
    """
    if isinstance(model, ContrastiveBaseline) and config.baseline.pretraining.epochs:
        logger.info("%s: pre-training on %s", config.baseline.name, name)
        pretrain(
            model,
            _pairs(config, sites, name),
            config.baseline.pretraining,
            seed=config.seed,
            device=resolve_device(config.device),
            precision=config.training.precision,
            workers=config.training.workers,
            checkpoint_folder=checkpoint_folder,
            resume=config.resume,
        )
    if config.baseline.fine_tune == "linear":
        freeze_encoders(model)


def describe_baseline(config: RunConfig, sites: SimulatedSites) -> dict[str, Any]:
    """What a result must say about a baseline, for ``summary.json``."""
    chosen = config.baseline
    contrastive = chosen.name != "biobert_vqa" and chosen.pretraining.epochs > 0
    return {
        "name": chosen.name,
        "backbone": chosen.backbone,
        "text_at_test": chosen.text_at_test,
        "fine_tune": chosen.fine_tune,
        "pretraining_text": {name: text_of_pairs(config, sites, name) for name in sites.sites} if contrastive else None,
    }


def with_baseline_inputs(config: RunConfig) -> MedVLMoEConfig:
    """The model's configuration with what the baseline's encoders want: mean and deviation of images, and tokenizer.

    Raises:
        CheckpointError: its weights are not there.
        ConfigError: its tokenizer is not there.
    """
    mean, std = image_normalisation(baseline_vision(config.baseline, config.model))
    vision = dataclasses.replace(config.model.vision, mean=list(mean), std=list(std))
    return dataclasses.replace(config.model, vision=vision, text=baseline_text(config.baseline, config.model))


def text_of_pairs(config: RunConfig, sites: SimulatedSites, name: str) -> str:
    """What the images of a site are paired with in stage A: ``report``, ``context`` or ``captions``."""
    chosen = config.baseline.pretraining.text
    if chosen != "auto":
        return chosen
    return "report" if sites.sites[name].dataset.kind == "mimic_cxr" else "captions"


def _pairs(config: RunConfig, sites: SimulatedSites, name: str) -> SiteDataset:
    text = text_of_pairs(config, sites, name)
    if text == "report":
        site = sites.sites[name]
        # A training target of this stage, on training rows: nothing that is evaluated ever reads it.
        dataset = dataclasses.replace(site.dataset, text="report", allow_label_leak=True)
        return load_dataset(dataclasses.replace(site, dataset=dataset), "train", sites.label_space, config.model)
    train = sites.data[name]["train"]
    if text == "context":
        return train
    return with_captions(train, load_tokenizer(config.model.text.tokenizer), config.model.text.max_tokens)
