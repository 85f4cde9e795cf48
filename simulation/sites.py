"""The sites of a simulation, opened before anything runs: a mistake in the data shows at once, as one line."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from client.app import simulated_site
from client.config import SiteConfig
from client.resident import SPLITS, own_label_space, resident_audit, resident_dataset
from medvlmoe.data import SiteDataset
from medvlmoe.data.audit.leak_audit import LeakAudit
from medvlmoe.data.audit.reported import LEAKS, summary_of_numbers
from medvlmoe.data.build import UNREADABLE
from medvlmoe.data.labels import LabelSpace
from medvlmoe.data.site_stamps import site_stamps
from medvlmoe.errors import ConfigError, DataError
from strategies.run_config import RunConfig

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class SimulatedSites:
    """All sites of a run.

    Attributes:
        label_space: union of the sites' labels.
        sites: configuration by name, in the order of the names.
        data: data sets by site and split.
        audits: by site, what the leak audit found; ``None`` where it is left out.
    """

    label_space: LabelSpace
    sites: dict[str, SiteConfig]
    data: dict[str, dict[str, SiteDataset]]
    audits: dict[str, LeakAudit | None]

    def split(self, split: str) -> dict[str, SiteDataset]:
        """One split of every site."""
        return {name: splits[split] for name, splits in self.data.items()}

    def left_out(self) -> dict[str, dict[str, int]]:
        """By site, why and how many records are not used; sites that use all are not named."""
        found = {name: _left_out(list(splits.values())) for name, splits in self.data.items()}
        return {name: counts for name, counts in found.items() if counts}

    def notes(self) -> dict[str, dict[str, str]]:
        """By site, how its data were read: version and policy of the labels, split, text, augmentation."""
        return {name: next(iter(splits.values())).notes for name, splits in self.data.items()}

    def text_facts(self, name: str) -> dict[str, Any]:
        """What ``summary.json`` says about a site's text; empty where the audit is left out."""
        found = self.audits[name]
        return {} if found is None else summary_of_numbers(found.to_numbers())

    def stamps(self) -> dict[str, list[str]]:
        """The stamps of each site's data."""
        left_out = self.left_out()
        return {
            name: site_stamps(
                site.dataset,
                left_out.get(name, {}),
                text_leaks=(found := self.audits[name]) is not None and found.verdict == LEAKS,
                data_root=site.data_root,
            )
            for name, site in self.sites.items()
        }


def open_sites(
    config: RunConfig, splits: tuple[str, ...] = SPLITS, label_space: LabelSpace | None = None
) -> SimulatedSites:
    """Open every site's data (decoding images that are not in the cache yet).

    Args:
        config: the run's configuration.
        splits: the splits to open.
        label_space: labels of a trained model; ``None``: the union of the sites' labels.

    Raises:
        ConfigError: no sites, or a site's configuration or labels do not fit.
        DataError: a site's data is missing or malformed.
        LeakError: a site's text leaks its labels.
    """
    if not config.data.sites:
        raise ConfigError(
            "no sites: choose data=phantom or data=real, or add your own as docs/manifest.md shows: "
            "'+data.sites.NAME={kind:manifest,root:FOLDER}'"
        )
    sites = {name: simulated_site(config, name) for name in sorted(config.data.sites)}
    own_spaces = []
    for name, site in sites.items():
        with _naming(name):
            own_spaces.append(own_label_space(site))
            if label_space is not None:
                _refuse_unknown_labels(label_space, own_spaces[-1])
    label_space = label_space or LabelSpace.union(own_spaces)
    audits = {}
    for name, site in sites.items():
        with _naming(name):
            audits[name] = resident_audit(site)
    data: dict[str, dict[str, SiteDataset]] = {}
    for name, site in sites.items():
        with _naming(name):
            data[name] = {split: resident_dataset(site, split, label_space, config.model) for split in splits}
    opened = SimulatedSites(label_space=label_space, sites=sites, data=data, audits=audits)
    for name, counts in opened.left_out().items():
        logger.info("site %s: left out %s", name, ", ".join(f"{count} ({why})" for why, count in counts.items()))
    return opened


def _left_out(splits: Sequence[SiteDataset]) -> dict[str, int]:
    """Counts of a site: images are opened split by split, all else is counted over the whole site in each."""
    counts: dict[str, int] = {}
    for dataset in splits:
        for why, count in dataset.left_out.items():
            counts[why] = counts.get(why, 0) + count if why == UNREADABLE else count
    return counts


def _refuse_unknown_labels(model: LabelSpace, own: LabelSpace) -> None:
    try:
        model.positions_of(own)
    except ConfigError as error:
        raise ConfigError(f"{error}: the model never saw it; leave it out of the site's labels") from error


@contextmanager
def _naming(site: str) -> Iterator[None]:
    """Mistakes in a site's data name the site."""
    try:
        yield
    except (ConfigError, DataError) as error:
        raise type(error)(f"site {site}: {error}") from error
