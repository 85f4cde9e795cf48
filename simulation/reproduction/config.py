"""Configuration of ``medvlmoe reproduce``: a run's keys and the grid's."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from medvlmoe.errors import ConfigError
from strategies.run_config import RunConfig


@dataclass(kw_only=True)
class ReproductionConfig(RunConfig):
    """Root of the configuration (``configs/reproduce.yaml``): every key of a run, and those of the grid.

    ``mode``, ``compare``, ``resume``, ``checkpoint`` and ``seed`` are set for each cell and cannot be given.

    Attributes:
        protocol: name of the preset (``preset=tiny|small|paper`` chooses it with all it sets).
        seeds: how many seeds (0, 1, …), or a list of them.
        models: models of the grid beside the whole one, each in the table that it belongs to; empty: all of them.
        datasets: names in ``data.sites``; empty: those of the table or figure.
        backbone: encoders of the baselines: ``shared`` (MedVLMoE's own, the fair comparison; their names then end
            with ``_shared``), ``published``, or ``both``.
        text_at_test: ``none`` leaves the baselines as published (all but BioBERT-VQA read the image alone at test
            time); with ``concat`` all read the text too.
        jobs: cells that run at once, each in a process of its own.
        phantom_images: images of each synthetic data set that ``data=phantom`` draws where ``data.root`` is unset.
        keep_models: keep the weights of every cell; otherwise only those of the full model and of the joint runs.
        plan: print the cells and what is there of them, and run nothing.
    """

    protocol: str = "small"
    seeds: Any = 3
    models: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    backbone: str = "shared"
    text_at_test: str = "none"
    jobs: int = 1
    phantom_images: int = 300
    keep_models: bool = False
    plan: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("mode", "compare", "resume", "checkpoint", "seed"):
            default = next(entry for entry in dataclasses.fields(RunConfig) if entry.name == key)
            value = default.default_factory() if callable(default.default_factory) else default.default
            if getattr(self, key) != value:
                mend = "use seeds=[…]" if key == "seed" else "leave it out"
                raise ConfigError(f"{key}={getattr(self, key)}: a reproduction sets it for each cell; {mend}")
        self.seed_list()
        if self.jobs < 1:
            raise ConfigError(f"jobs={self.jobs}: use 1 or more")
        for key, choices in (("backbone", ("shared", "published", "both")), ("text_at_test", ("none", "concat"))):
            if getattr(self, key) not in choices:
                raise ConfigError(f"{key}={getattr(self, key)}: use one of {', '.join(choices)}")

    def seed_list(self) -> list[int]:
        """The seeds of the grid.

        Raises:
            ConfigError: it is neither a count nor a list of different whole numbers.
        """
        seeds = list(range(self.seeds)) if type(self.seeds) is int else self.seeds
        whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
        if not whole or not seeds or len(set(seeds)) < len(seeds):
            raise ConfigError(f"seeds={self.seeds}: give a number of seeds (seeds=3) or a list (seeds=[0,1,7])")
        return seeds

    def run_config(self) -> RunConfig:
        """The keys of a single run."""
        names = [entry.name for entry in dataclasses.fields(RunConfig)]
        return RunConfig(**{name: getattr(self, name) for name in names})
