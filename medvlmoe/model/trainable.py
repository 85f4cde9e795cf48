"""Which part of an encoder learns: all of it, its last blocks, adapters beside its layers, or nothing."""

from collections.abc import Sequence

from torch import nn

from medvlmoe.errors import ConfigError
from medvlmoe.model.config import LoRAConfig, TextConfig, VisionConfig


def choose_trainable(
    encoder: nn.Module, blocks: Sequence[Sequence[str]], config: VisionConfig | TextConfig, part: str
) -> None:
    """Freeze the parameters of an encoder that shall not learn, and add the configured adapters.

    Args:
        encoder: all its parameters learn so far.
        blocks: names of parameters by block, from the input to the output. The first is the embedding.
        config: says what learns.
        part: ``vision`` or ``text``, for messages.

    Raises:
        ConfigError: more blocks than there are, or the adapters find no layer of theirs.
    """
    if config.lora.rank > 0:
        _add_adapters(encoder, config.lora, part)
    elif config.trainable_blocks is not None:
        _freeze_all_but_last(encoder, blocks, config.trainable_blocks, part)


def evaluate_frozen_modules(encoder: nn.Module) -> None:
    """Put every module without a trainable parameter, and all inside it, into evaluation mode.

    Dropout only adds noise where nothing learns, and batch statistics would drift away from the frozen weights.
    """
    for module in encoder.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            for inner in module.modules():
                inner.training = False


def _freeze_all_but_last(encoder: nn.Module, blocks: Sequence[Sequence[str]], count: int, part: str) -> None:
    if count >= len(blocks):
        raise ConfigError(
            f"model.{part}.trainable_blocks={count}: the encoder has {len(blocks) - 1}; null trains all of it, "
            "with its embedding"
        )
    learning = {name for block in blocks[len(blocks) - count :] for name in block}
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name in learning)


def _add_adapters(encoder: nn.Module, config: LoRAConfig, part: str) -> None:
    from peft import LoraConfig, inject_adapter_in_model  # a second to import, and few runs need it

    adapters = LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=list(config.targets)
    )
    try:
        inject_adapter_in_model(adapters, encoder)
    except ValueError as error:
        raise ConfigError(
            f"model.{part}.lora.targets={list(config.targets)}: no adapter fits there ({str(error).splitlines()[0]}); "
            "name linear layers of the encoder"
        ) from error
    missing = [target for target in config.targets if not _is_adapted(encoder, target)]
    if missing:
        raise ConfigError(f"model.{part}.lora.targets: the encoder has no layer '{missing[0]}'")


def _is_adapted(encoder: nn.Module, target: str) -> bool:
    return any(
        name == target or name.endswith(f".{target}")
        for name, module in encoder.named_modules()
        if hasattr(module, "lora_A")
    )
