"""What a site does with a request: train the received model on its own data, or evaluate it."""

import dataclasses
import hashlib
import logging
import math
import time
import traceback
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch

from client.config import SiteConfig
from client.departure import Departure
from client.facts import audit_numbers, data_facts
from client.policy.disclosure import check_cohort, released_labels, released_metrics, released_routes
from client.privacy import (
    RoundPrivacy,
    begin_round,
    evaluation_may_leave,
    noised_counts,
    open_round,
    plain_counts,
)
from client.resident import SPLITS, own_label_space, resident_dataset, resident_model
from client.site_log import log_at_site
from client.state import RoundTensors
from medvlmoe import stamps
from medvlmoe.data import SiteDataset
from medvlmoe.model import AnyMedVLMoE
from medvlmoe.privacy.units import PrivacyUnits
from medvlmoe.training import Trainer
from medvlmoe.training.config import TrainingConfig
from medvlmoe.training.evaluation import Evaluation
from medvlmoe.training.predictions import Predictions, save_predictions
from strategies.exchange import exchanged_tensors, load_exchanged
from strategies.messages import Metric, RoundConfig, SiteIntroduction, SiteUpdate

logger = logging.getLogger(__name__)


def introduce(site: SiteConfig) -> SiteIntroduction:
    """Name, labels and version of a site."""
    return SiteIntroduction(name=site.name, label_space=own_label_space(site), version=version("medvlmoe"))


def data_digest(site: SiteConfig, request: RoundConfig) -> str:
    """SHA-256 of the records that a round of training reads. They stay in memory for it."""
    splits = [resident_dataset(site, split, request.label_space, request.model) for split in ("train", "validation")]
    return hashlib.sha256("\n".join(each.digest() for each in splits).encode()).hexdigest()


def train(
    site: SiteConfig, request: RoundConfig, tensors: Mapping[str, torch.Tensor], departure: Departure
) -> SiteUpdate:
    """One round at a site.

    The received model is first evaluated on the site's validation split (that saves a second download), then trained
    for the round's epochs.

    Args:
        site: the site's own configuration.
        request: the round's configuration.
        tensors: global parameters.
        departure: gets what counts only if the reply leaves.

    Raises:
        LeakError: the site's text leaks its labels.
        PolicyRefusalError: too few examples or patients, or the privacy budget is spent.
    """
    label_space, policy = request.label_space, site.policy
    train_set = resident_dataset(site, "train", label_space, request.model)
    check_cohort(policy, train_set)
    privacy = None
    if request.privacy.covers_records:
        privacy = open_round(site, request, PrivacyUnits.of(request.privacy.unit, train_set))
    text_numbers = audit_numbers(site, request.run)
    trainer, model = _trainer(site, request, tensors, privacy)
    states = RoundTensors(Path(site.folder), request.run, "optimizer")
    if request.keep_optimizer_state:
        trainer.load_optimizer_tensors(states.before(request.round))

    validation_set = resident_dataset(site, "validation", label_space, request.model)
    validation = None
    if privacy is None or (request.privacy.release_evaluation and evaluation_may_leave(site, request.privacy)):
        validation = trainer.evaluate(validation_set, intervals=False, min_patients=policy.min_cell)
    model.reset_routed_samples()
    observed_labels_Y = torch.zeros(len(label_space.labels), dtype=torch.float64)
    loss, steps, started = 0.0, 0, time.monotonic()
    if privacy is not None:
        privacy, attempt = begin_round(site, request, privacy)
        departure.pend(attempt)
    for epoch in range((request.round - 1) * request.local_epochs, request.round * request.local_epochs):
        result = trainer.train_epoch(train_set, epoch)
        observed_labels_Y += result.observed_labels_Y
        loss = result.mean_loss
        steps += result.steps
    training_metrics: dict[str, Metric] = {"train_steps": float(steps)}
    if privacy is None:
        training_metrics |= {
            "train_loss": loss,
            "train_seconds": round(time.monotonic() - started, 3),
            "left_out": float(sum(train_set.left_out.values())),
        }
    if request.keep_optimizer_state:
        departure.stage(states.stage(request.round, trainer.optimizer_tensors()))
    if privacy is None:
        routed_samples_K = released_routes(policy, model.routed_samples().double(), request.local_epochs)
        observed_labels_Y = released_labels(policy, observed_labels_Y, train_set)
    else:
        logger.info("site %s: training loss %.4f (stays here)", site.name, loss)
        routed_samples_K, observed_labels_Y = _private_counts(site, request, trainer, train_set, privacy)
    cost: dict[str, Metric] = {} if privacy is None else {**privacy.cost.to_numbers()}
    validation_metrics = {} if validation is None else _metrics(validation, "validation_")
    return SiteUpdate(
        round=request.round,
        tensors=exchanged_tensors(model),
        examples=float(len(train_set) if privacy is None else len(privacy.units)),
        routed_samples_K=routed_samples_K,
        observed_labels_Y=observed_labels_Y,
        metrics=released_metrics(policy, training_metrics, train_set)
        | released_metrics(policy, validation_metrics, validation_set)
        | _facts(site, request, text_numbers, train_set)
        | cost,
    )


def evaluate(site: SiteConfig, request: RoundConfig, tensors: Mapping[str, torch.Tensor]) -> dict[str, Metric]:
    """Metrics of the received model on the splits that the request names, keys ``split/metric``; and the data's facts.

    Raises:
        LeakError: the site's text leaks its labels.
    """
    text_numbers = audit_numbers(site, request.run)
    trainer, _ = _trainer(site, request, tensors)
    metrics: dict[str, Metric] = {}
    for split in request.splits:
        if split not in SPLITS:
            raise ValueError("a split that does not exist")
        dataset = resident_dataset(site, split, request.label_space, request.model)
        kept_here = site.predictions is not None and split == "test"
        if evaluation_may_leave(site, request.privacy):
            predictions = _scores(site, trainer, dataset, keep=kept_here)
            found = trainer.judge(predictions, intervals=request.intervals, min_patients=site.policy.min_cell)
            metrics |= released_metrics(site.policy, _metrics(found, f"{split}/"), dataset)
        elif kept_here:
            _keep_scores_or_say_so(site, trainer, dataset)
        metrics |= _facts(site, request, text_numbers, dataset)
    return metrics


def _scores(site: SiteConfig, trainer: Trainer, dataset: SiteDataset, *, keep: bool) -> Predictions:
    predictions = trainer.score(dataset)
    if keep:
        save_predictions(Path(str(site.predictions)) / f"{site.name}.safetensors", predictions)
    return predictions


def _keep_scores_or_say_so(site: SiteConfig, trainer: Trainer, dataset: SiteDataset) -> None:
    """Scores that only the site sees. Whether they can be made is told by the records: no code of it may leave."""
    try:
        _scores(site, trainer, dataset, keep=True)
    except Exception:
        logger.error("site %s: no predictions were kept; the site's log says why", site.name)
        log_at_site(site, f"predictions of the test split failed; the server is not told\n{traceback.format_exc()}")


def _facts(
    site: SiteConfig, request: RoundConfig, text_numbers: dict[str, float], dataset: SiteDataset
) -> dict[str, Metric]:
    """Facts about the data that may leave.

    Under record-level privacy the stamps alone: the audit's numbers are of all records, those of the training part too,
    and have no noise. ``privacy.release_evaluation`` is of the other parts. In a simulation nothing leaves.
    """
    facts = data_facts(site, text_numbers, dataset.left_out)
    if request.privacy.covers_records and not site.simulated:
        facts = {name: value for name, value in facts.items() if name in stamps.to_numbers(stamps.MEANINGS)}
    return released_metrics(site.policy, facts, dataset)


def _private_counts(
    site: SiteConfig, request: RoundConfig, trainer: Trainer, train_set: SiteDataset, privacy: RoundPrivacy
) -> tuple[torch.Tensor, torch.Tensor]:
    known_Y = torch.zeros(len(request.label_space), dtype=torch.bool)
    known_Y[request.label_space.positions_of(own_label_space(site))] = True
    moe, epochs = request.model.moe, request.local_epochs
    if privacy.steps.config.counts_noise is None:
        return plain_counts(len(privacy.units), epochs, moe.experts, moe.top_k, known_Y)
    share_N = privacy.units.shares()
    return noised_counts(
        privacy,
        trainer.routed_records(train_set, share_N),
        share_N @ (~train_set.labels_NY.isnan()).double(),
        known_Y,
        top_k=moe.top_k,
        epochs=epochs,
        epoch=request.round * epochs - 1,
    )


def _trainer(
    site: SiteConfig, request: RoundConfig, tensors: Mapping[str, torch.Tensor], privacy: RoundPrivacy | None = None
) -> tuple[Trainer, AnyMedVLMoE]:
    """The received model and what trains it."""
    model = resident_model(site, request)
    load_exchanged(model, tensors, take=True)  # each tensor is decoded anew, so nobody else has it
    trainer = Trainer(
        model,
        _training_here(site, request.training),
        request.label_space,
        seed=request.seed,
        device=site.device,
        devices=site.devices,
        total_epochs=request.rounds * request.local_epochs,
        private_steps=None if privacy is None else privacy.steps,
    )
    return trainer, model


def _training_here(site: SiteConfig, training: TrainingConfig) -> TrainingConfig:
    own = {name: getattr(site, name) for name in ("precision", "workers", "accumulate")}
    return dataclasses.replace(training, **{name: value for name, value in own.items() if value is not None})


def _metrics(evaluation: Evaluation, prefix: str) -> dict[str, Metric]:
    low, high = evaluation.auc_ci or (None, None)
    found = {
        "n": evaluation.n,
        "auc": evaluation.auc,
        "auc_low": low,
        "auc_high": high,
        "labels_averaged": evaluation.labels_averaged,
        "accuracy": evaluation.accuracy,
        "loss": evaluation.loss,
    }
    for name, mean in evaluation.subset_auc.items():
        found |= {f"subset/{name}/{key}": value for key, value in mean.items()}
    return {prefix + name: value for name, value in found.items() if value is not None and math.isfinite(value)}
