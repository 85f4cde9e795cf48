"""Published weights for the text encoder: BioGPT, with or without its language head."""

from pathlib import Path

from huggingface_hub import snapshot_download
from torch import nn
from transformers import BioGptConfig

from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.files import read_json
from medvlmoe.model.config import TextConfig
from medvlmoe.model.weights import find_weights, is_local, load_exactly, read_weights

_PREFIX = "biogpt."
_HEADS = ("output_projection.", "score.", "classifier.")  # of BioGPT's language and classification models
_SIZES = (
    ("vocab_size", "vocabulary_size"),
    ("hidden_size", "hidden_size"),
    ("num_hidden_layers", "layers"),
    ("num_attention_heads", "heads"),
    ("intermediate_size", "feed_forward_size"),
    ("max_position_embeddings", "max_positions"),
)
# What this encoder computes without asking; published weights of another kind would fit and be wrong.
_FIXED = {"hidden_act": "gelu", "scale_embedding": True}


def load_text_weights(model: nn.Module, config: TextConfig) -> None:
    """Load ``config.weights``, a local file or directory or a hub id, into a ``BioGptModel``.

    Raises:
        ConfigError: the weights' ``config.json`` has other sizes than ``config``.
        CheckpointError: the weights cannot be had, read, or are not those of a BioGPT of these sizes.
    """
    assert config.weights is not None
    path = Path(config.weights).expanduser() if is_local(config.weights) else _downloaded(config.weights)
    file = find_weights(path, "model.text.weights")
    description = file.parent / "config.json"
    if description.exists():
        _refuse_other_sizes(description, config)
    tensors = {
        name.removeprefix(_PREFIX): tensor for name, tensor in read_weights(file).items() if not name.startswith(_HEADS)
    }
    load_exactly(model, tensors, path, "text encoder")


def _refuse_other_sizes(file: Path, config: TextConfig) -> None:
    described = read_json(file)
    kind = described.get("model_type") if isinstance(described, dict) else None
    if kind != BioGptConfig.model_type:
        raise CheckpointError(f"{file} describes a {kind}, not a biogpt; choose the weights of a BioGPT")
    found = BioGptConfig.from_dict(described)
    for theirs, ours in _SIZES:
        if getattr(found, theirs) != getattr(config, ours):
            raise ConfigError(
                f"model.text.{ours}={getattr(config, ours)} but {file.parent} has {getattr(found, theirs)}; "
                "set it to that"
            )
    for key, value in _FIXED.items():
        if getattr(found, key) != value:
            raise CheckpointError(f"{file}: {key}={getattr(found, key)}; the text encoder computes {key}={value} only")


def _downloaded(hub_id: str) -> Path:
    """The directory with a hub repository's weights and configuration; downloaded once."""
    wanted = ["config.json", "*.safetensors", "*.bin", "*.index.json"]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=wanted))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"model.text.weights={hub_id}: no file or directory here, and the hub does not give it ({reason}); "
            "get its files and name their directory"
        ) from error
