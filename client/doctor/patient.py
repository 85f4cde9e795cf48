"""What the checks look at: the site, and the run that it expects."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from client.config import ConnectionConfig, SiteConfig
from medvlmoe.data.index import SiteIndex
from medvlmoe.data.loaders.registry import load_index
from medvlmoe.model import build_model
from strategies.codecs import codec_by_name
from strategies.exchange import exchanged_tensors
from strategies.run_config import RunConfig

_LABELS = 20  # rows of the head: a few thousand parameters, next to nothing


@dataclass(frozen=True)
class ModelSize:
    """How large the run's model is.

    Attributes:
        parameters: all of them.
        exchanged: those that travel.
        download_bytes: one model on its way to the site.
        upload_bytes: one update on its way to the server.
    """

    parameters: int
    exchanged: int
    download_bytes: int
    upload_bytes: int


@dataclass
class Patient:
    """The site under examination.

    Attributes:
        site: ``site.yaml``.
        run: model and codec of the run that is expected.
    """

    site: SiteConfig
    run: RunConfig

    @cached_property
    def index(self) -> SiteIndex:
        """The site's table.

        Raises:
            DataError: it is missing or malformed.
        """
        return load_index(self.site.dataset, self.site.data_root)

    @cached_property
    def model_size(self) -> ModelSize:
        """Counted on a model without memory, without any weights file."""
        config = self.run.model
        config = dataclasses.replace(
            config,
            vision=dataclasses.replace(config.vision, weights=None),
            text=dataclasses.replace(config.text, weights=None),
        )
        with torch.device("meta"):
            model = build_model(config, _LABELS, seed=0)
        shapes = [tensor.shape for tensor in exchanged_tensors(model).values()]
        down = codec_by_name(self.run.strategy.codec)
        up = codec_by_name(self.run.strategy.upload_codec or self.run.strategy.codec)
        return ModelSize(
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            exchanged=sum(shape.numel() for shape in shapes),
            download_bytes=sum(down.byte_count(shape) for shape in shapes),
            upload_bytes=sum(up.byte_count(shape) for shape in shapes),
        )

    @property
    def server(self) -> ConnectionConfig:
        """The way to the federation; only for checks that run when there is one."""
        assert self.site.server is not None
        return self.site.server

    @property
    def cache(self) -> Path:
        """Folder of decoded images."""
        return Path(self.site.cache or Path(self.site.folder) / "cache")
