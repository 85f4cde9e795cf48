"""The model, the data sets and the leak audits that stay in memory between the messages of one process.

In simulation one process serves every site, and one model is enough: each message brings all that differs between
sites. A Flower ClientApp process lives for one message only, and there this is simply empty at first.
"""

import json
import logging
from dataclasses import replace
from pathlib import Path

from client.config import SiteConfig
from medvlmoe.configuration import to_mapping
from medvlmoe.data import LabelSpace, SiteDataset, build_dataset, load_tokenizer, site_label_space
from medvlmoe.data.audit.leak_audit import LeakAudit, audit_site, refuse_leak
from medvlmoe.data.audit.reported import LEAKS, SUSPICIOUS
from medvlmoe.data.config import TEXT_OF_REPORTS
from medvlmoe.model import AnyMedVLMoE, MedVLMoEConfig, build_frozen_parts, image_normalisation
from strategies.exchange import refuse_other_frozen_parts
from strategies.messages import RoundConfig

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")

_models: dict[str, AnyMedVLMoE] = {}
_datasets: dict[str, SiteDataset] = {}
_audits: dict[str, LeakAudit] = {}


def forget() -> None:
    """Start anew: a second run in one process must see what has changed on disk since."""
    _models.clear()
    _datasets.clear()
    _audits.clear()


def resident_model(site: SiteConfig, request: RoundConfig) -> AnyMedVLMoE:
    """The model of a run, to be filled with what the server sent. One is kept: asking for another frees the first.

    Raises:
        CheckpointError: the frozen parts here are not the server's, or their weights are not here.
    """
    config = _with_own_weights(site, request.model)
    key = json.dumps([to_mapping(config), len(request.label_space), request.seed, request.frozen_sums])
    if key not in _models:
        _models.clear()
        model = build_frozen_parts(config, len(request.label_space), request.seed)
        refuse_other_frozen_parts(model, request.frozen_sums)
        _models[key] = model
    return _models[key]


def resident_dataset(site: SiteConfig, split: str, label_space: LabelSpace, model: MedVLMoEConfig) -> SiteDataset:
    """A split of the site's data. Images stay in the memory-mapped cache, so keeping it costs little."""
    vision, text = model.vision, model.text
    seen = [vision.image_size, vision.depth, vision.channels, *image_normalisation(vision), text.tokenizer,
            text.max_tokens]  # fmt: skip
    key = json.dumps([to_mapping(site), split, label_space.to_dict(), seen])
    if key not in _datasets:
        dataset = _datasets[key] = load_dataset(site, split, label_space, model)
        logger.info("site %s, %s: %d records (%s)", site.name, split, len(dataset),
                    ", ".join(f"{what}: {how}" for what, how in dataset.notes.items()))  # fmt: skip
    return _datasets[key]


def _with_own_weights(site: SiteConfig, model: MedVLMoEConfig) -> MedVLMoEConfig:
    """The server's model with the site's paths of the weights, where it gives any."""
    if site.vision_weights is not None:
        model = replace(model, vision=replace(model.vision, weights=site.vision_weights))
    if site.text_weights is not None and model.text.encoder == "biogpt":
        model = replace(model, text=replace(model.text, weights=site.text_weights))
    return model


def load_dataset(site: SiteConfig, split: str, label_space: LabelSpace, model: MedVLMoEConfig) -> SiteDataset:
    """Read a split of the site's data as the model wants it."""
    mean, std = image_normalisation(model.vision)
    return build_dataset(
        site.dataset,
        split,
        label_space=label_space,
        image_size=model.vision.image_size,
        image_depth=model.vision.depth,
        tokenizer=load_tokenizer(model.text.tokenizer),
        max_tokens=model.text.max_tokens,
        cache=Path(site.cache or Path(site.folder) / "cache"),
        mean=mean,
        std=std,
        channels=model.vision.channels,
        data_root=site.data_root,
        workers=site.decode_workers,
    )


def resident_audit(site: SiteConfig) -> LeakAudit | None:
    """What the leak audit finds in the site's text; ``None`` where the site leaves it out.

    Raises:
        LeakError: the text leaks the labels, and the site has not accepted that.
    """
    if site.leak_audit.action == "skip":
        return None
    key = json.dumps([to_mapping(site.dataset), site.data_root, to_mapping(site.leak_audit)])
    found = _audits.get(key)
    if found is None:
        found = _audits[key] = audit_site(site.dataset, site.leak_audit, site.data_root)
        if found.verdict in (LEAKS, SUSPICIOUS):
            logger.warning("site %s: %s", site.name, found.words())
    if site.leak_audit.action == "fail" and site.dataset.text not in TEXT_OF_REPORTS:
        refuse_leak(found)
    return found


def own_label_space(site: SiteConfig) -> LabelSpace:
    """The labels that the site's data has."""
    return site_label_space(site.dataset, site.data_root)
