"""The ablations: what is taken out of the model or put in its place. The only place that defines them.

The first four are the paper's Table 2 (its text names three of them; readings A19 and A20), the others those that it
should have had.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from medvlmoe.errors import ConfigError
from medvlmoe.model.config import MedVLMoEConfig

FULL = "medvlmoe"
"""Name of the whole model in the grid of runs."""

Change = Callable[[MedVLMoEConfig], Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """One variant of the model.

    Attributes:
        name: its name in the grid, on the command line and in ``results.json``.
        title: its name in tables.
        meaning: what differs from the whole model, one sentence.
        change: from the whole model's configuration to the keys below ``model`` that differ, with their values.
        in_paper: whether the paper's Table 2 has it.
        needs: the variant whose trained weights it starts from; ``None`` for most.
    """

    name: str
    title: str
    meaning: str
    change: Change
    in_paper: bool = False
    needs: str | None = None

    def apply(self, config: MedVLMoEConfig) -> MedVLMoEConfig:
        """The variant of ``config``, checked like any other configuration.

        Raises:
            ConfigError: the variant does not exist for this model.
        """
        parts: dict[str, dict[str, Any]] = {}  # at once: a key alone may contradict another's old value
        own: dict[str, Any] = {}
        for key, value in self.change(config).items():
            part, _, name = key.rpartition(".")
            (parts.setdefault(part, {}) if part else own)[name] = value
        changed = {part: replace(getattr(config, part), **values) for part, values in parts.items()}
        return replace(config, **own, **changed)


def ablation_named(name: str) -> Ablation:
    """Look an ablation up.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in ABLATIONS:
        raise ConfigError(f"no ablation '{name}'; there are {', '.join(ABLATIONS)}")
    return ABLATIONS[name]


def _always(changes: dict[str, Any]) -> Change:
    return lambda config: changes


def _text_encoder(encoder: str) -> Change:
    """Another text encoder; what is said of BioGPT's weights does not concern it."""
    return lambda config: {
        "text.encoder": encoder,
        "text.weights": None,
        "text.trainable_blocks": None,
        "text.lora": replace(config.text.lora, rank=0),
    }


def _single_ffn_matched(config: MedVLMoEConfig) -> dict[str, Any]:
    return {"moe.experts": 1, "moe.top_k": 1, "moe.hidden_size": config.moe.top_k * config.expert_hidden_size}


def _experts(count: int) -> Change:
    return lambda config: {"moe.experts": count, "moe.top_k": min(config.moe.top_k, count)}


def _shared_expert(config: MedVLMoEConfig) -> dict[str, Any]:
    """One of the experts becomes the one that everybody is sent to: as many in all, and as many active."""
    if config.moe.experts < 2:
        raise ConfigError("the ablation 'shared_expert' needs model.moe.experts of 2 or more")
    top_k = max(1, config.moe.top_k - 1)
    return {
        "moe.shared_experts": 1,
        "moe.top_k": top_k,
        "moe.experts": config.moe.experts - 1,
        # Divided by itself a single weight is 1, and the router would never learn (A8).
        "moe.renormalise": config.moe.renormalise and top_k > 1,
    }


_LIST = (
    Ablation(
        name="single_ffn",
        title="w/o MoE (single FFN)",
        meaning="one expert that every sample goes to: a feed-forward network of the same width; its router is one row"
        " of numbers without effect",
        change=_always({"moe.experts": 1, "moe.top_k": 1}),
        in_paper=True,
    ),
    Ablation(
        name="no_fusion",
        title="w/o cross-modal fusion",
        meaning="no attention: the pooled image and text tokens are concatenated; gate and experts kept (A20)",
        change=_always({"fusion.kind": "concat"}),
        in_paper=True,
    ),
    Ablation(
        name="no_biogpt",
        title="w/o BioGPT (text encoder)",
        meaning="no text is read: one learned vector stands in its place; fusion and experts kept (A19)",
        change=_text_encoder("null_token"),
        in_paper=True,
    ),
    Ablation(
        name="vision_only",
        title="vision only",
        meaning="the image encoder and a linear head on its class token; neither text nor fusion nor experts (A19)",
        change=_always({"variant": "vision_only"}),
        in_paper=True,
    ),
    Ablation(
        name="bag_of_words",
        title="BioGPT replaced by a bag of words",
        meaning="the text is read by a learned table of word vectors alone; fusion and experts kept (A19)",
        change=_text_encoder("embedding_bag"),
    ),
    Ablation(
        name="single_ffn_matched",
        title="single FFN, as wide as the active experts",
        meaning="one feed-forward network with the hidden units of the experts that a sample goes to: as many FLOPs",
        change=_single_ffn_matched,
    ),
    Ablation(
        name="top_1",
        title="top-1 routing",
        meaning="each sample goes to one expert, weighted by its probability as in Switch (renormalised, the router"
        " would get no gradient, A8)",
        change=_always({"moe.top_k": 1, "moe.renormalise": False}),
    ),
    Ablation(
        name="dense",
        title="dense (every expert)",
        meaning="each sample goes to every expert",
        change=lambda config: {"moe.top_k": config.moe.experts},
    ),
    Ablation(name="experts_4", title="4 experts", meaning="K = 4", change=_experts(4)),
    Ablation(name="experts_8", title="8 experts", meaning="K = 8", change=_experts(8)),
    Ablation(name="experts_16", title="16 experts", meaning="K = 16", change=_experts(16)),
    Ablation(
        name="balance_0", title="no balance loss", meaning="alpha = 0", change=_always({"moe.balance_alpha": 0.0})
    ),
    Ablation(
        name="balance_0.001", title="balance loss 0.001", meaning="alpha = 0.001",
        change=_always({"moe.balance_alpha": 0.001}),
    ),
    Ablation(
        name="balance_0.01", title="balance loss 0.01", meaning="alpha = 0.01 (the paper's)",
        change=_always({"moe.balance_alpha": 0.01}),
    ),
    Ablation(
        name="shared_expert",
        title="shared expert",
        meaning="one expert takes every sample, the others are routed to (DeepSeekMoE, arXiv 2401.06066): as many"
        " experts in all and as many active",
        change=_shared_expert,
    ),
    Ablation(
        name="upcycled",
        title="upcycled from the single FFN",
        meaning="starts from the trained single FFN, copied into every expert with a little noise (arXiv 2212.05055);"
        " it has had the training of both",
        change=lambda config: {},
        needs="single_ffn",
    ),
    Ablation(
        name="top_p",
        title="dynamic number of experts (top-p)",
        meaning="the fewest experts whose probabilities sum to 0.5, at most half of all; entropy loss 1e-4"
        " (arXiv 2403.07652; the paper's future work)",
        change=lambda config: {
            "moe.top_p": 0.5,
            "moe.top_k": max(1, config.moe.experts // 2),
            "moe.entropy_alpha": 1e-4,
        },
    ),
)  # fmt: skip

ABLATIONS = {ablation.name: ablation for ablation in _LIST}
PAPER_ABLATIONS = tuple(name for name, ablation in ABLATIONS.items() if ablation.in_paper)
