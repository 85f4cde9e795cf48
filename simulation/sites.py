"""The sites of a simulation, opened before anything runs: a mistake in the data shows at once, as one line."""

from dataclasses import dataclass

from client.app import simulated_site
from client.config import SiteConfig
from client.resident import SPLITS, own_label_space, resident_dataset
from medvlmoe.data import SiteDataset
from medvlmoe.data.labels import LabelSpace
from medvlmoe.errors import ConfigError
from strategies.run_config import RunConfig


@dataclass(kw_only=True)
class SimulatedSites:
    """All sites of a run.

    Attributes:
        label_space: union of the sites' labels.
        sites: configuration by name, in the order of the names.
        data: data sets by site and split.
    """

    label_space: LabelSpace
    sites: dict[str, SiteConfig]
    data: dict[str, dict[str, SiteDataset]]

    def split(self, split: str) -> dict[str, SiteDataset]:
        """One split of every site."""
        return {name: splits[split] for name, splits in self.data.items()}


def open_sites(
    config: RunConfig, splits: tuple[str, ...] = SPLITS, label_space: LabelSpace | None = None
) -> SimulatedSites:
    """Open every site's data (decoding images that are not in the cache yet).

    Args:
        config: the run's configuration.
        splits: the splits to open.
        label_space: labels of a trained model; ``None``: the union of the sites' labels.

    Raises:
        ConfigError: no sites.
        DataError: a site's data is missing or malformed.
    """
    if not config.data.sites:
        raise ConfigError("no sites: choose data=phantom, data=real, or set data.sites")
    sites = {name: simulated_site(config, name) for name in sorted(config.data.sites)}
    if label_space is None:
        label_space = LabelSpace.union([own_label_space(site) for site in sites.values()])
    data = {
        name: {split: resident_dataset(site, split, label_space, config.model) for split in splits}
        for name, site in sites.items()
    }
    return SimulatedSites(label_space=label_space, sites=sites, data=data)
