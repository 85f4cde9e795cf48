"""Configuration of the model. The defaults are the paper's model; every open reading of the paper is one key."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from medvlmoe.errors import ConfigError

BYTE_TOKENIZER = "byte"
BYTE_VOCABULARY_SIZE = 260  # 256 bytes and four special tokens


VOLUME_BACKBONE = "vit3d"


@dataclass(kw_only=True)
class VolumeConfig:
    """The transformer over volumes, ``model.vision.backbone=vit3d``. Flat backbones bring their own sizes.

    Attributes:
        patch_size: rows and columns of the block of voxels that becomes one token.
        patch_depth: its slices.
        width: size of a token.
        layers: transformer blocks.
        heads: attention heads of a block.
    """

    patch_size: int = 8
    patch_depth: int = 4
    width: int = 192
    layers: int = 6
    heads: int = 3

    def __post_init__(self) -> None:
        _positive("vision.volume", self, "patch_size", "patch_depth", "width", "layers", "heads")
        _divides("vision.volume", self, "heads", "width")


@dataclass(kw_only=True)
class LoRAConfig:
    """Low-rank adapters beside layers of an encoder: W x + alpha / rank * B A x (arXiv 2106.09685).

    B starts at 0, so the model starts as the one without adapters. The encoder itself is frozen: only A and B learn,
    and only they travel.

    Attributes:
        rank: rows of A; 0 is no adapters.
        alpha: scale of the adapters; divided by the rank.
        dropout: on an adapter's input, in training.
        targets: the layers that get one, by the last parts of their names.
    """

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    targets: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class VisionConfig:
    """The image encoder.

    Attributes:
        backbone: a timm model name; vision transformers and convolutional networks both work. ``vit3d`` reads volumes.
        image_size: height and width of the images in pixels.
        depth: slices of a volume, with ``backbone=vit3d``; ``None`` for flat images.
        volume: sizes of ``vit3d``.
        channels: colour channels of the images.
        weights: ``None`` (random); a local file or directory with weights of timm, open_clip or a Hugging Face CLIP
            (``.safetensors``, ``.bin``, ``.pt``, ``.pth``); or the tag of pretrained weights that timm knows for the
            backbone (``openai``, ``laion2b``, …; downloaded by timm).
        resize_positions: allow local weights of another image size: their table of positions is resampled.
        mean: by channel, subtracted from the images; ``None``: as the weights, else the backbone, were trained.
        std: by channel, divides the images; ``None`` as for ``mean``.
        trainable_blocks: how many of the last blocks learn; 0 freezes the encoder, ``None`` trains all of it.
        lora: adapters beside the layers of the frozen encoder.
        normalisation: ``group`` replaces batch normalisation by group normalisation, so that a prediction never
            depends on the other images of the batch and sites share no batch statistics; ``batch`` keeps it.
        normalisation_groups: channels are cut into this many groups (into fewer where it does not divide them).
        output_stride: for convolutional backbones, pixels per token side (8, 16 or 32); ``None`` is the backbone's own.
        drop_path: probability of skipping a residual block in training, rising to this value at the last block.
    """

    backbone: str = "vit_large_patch14_clip_224"
    image_size: int = 224
    depth: int | None = None
    volume: VolumeConfig = field(default_factory=VolumeConfig)
    channels: int = 3
    weights: str | None = None
    resize_positions: bool = False
    mean: list[float] | None = None
    std: list[float] | None = None
    trainable_blocks: int | None = None
    lora: LoRAConfig = field(default_factory=lambda: LoRAConfig(targets=["qkv"]))
    normalisation: str = "group"
    normalisation_groups: int = 32
    output_stride: int | None = None
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        _positive("vision", self, "image_size", "channels", "normalisation_groups")
        _one_of("vision", self, "normalisation", ("group", "batch"))
        _one_of("vision", self, "output_stride", (None, 8, 16, 32))
        _probability("vision", self, "drop_path")
        _check_learning("vision", self)
        self._check_normalisation_of_images()
        if self.backbone == VOLUME_BACKBONE:
            self._check_volume()
        elif self.depth is not None:
            raise ConfigError(
                f"model.vision.depth={self.depth}: {self.backbone} reads flat images; choose model.vision=vit3d, or "
                "set depth=null"
            )

    @property
    def has_frozen_parts(self) -> bool:
        """Whether part of the encoder does not learn, and so does not travel."""
        return self.trainable_blocks is not None or self.lora.rank > 0

    def _check_normalisation_of_images(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise ConfigError("model.vision.mean and model.vision.std go together: set both or neither")
        if self.mean is None or self.std is None:
            return
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise ConfigError(f"model.vision.{key}={values}: give {self.channels} numbers, one a channel")
        if min(self.std) <= 0:
            raise ConfigError(f"model.vision.std={self.std}: use numbers above 0")

    def _check_volume(self) -> None:
        if self.depth is None:
            raise ConfigError("model.vision.backbone=vit3d: set model.vision.depth to the number of slices")
        _positive("vision", self, "depth")
        for key, patch in (("depth", "patch_depth"), ("image_size", "patch_size")):
            if getattr(self, key) % getattr(self.volume, patch):
                raise ConfigError(
                    f"model.vision.{key}={getattr(self, key)} is not a multiple of model.vision.volume.{patch}="
                    f"{getattr(self.volume, patch)}; choose one that is"
                )
        if self.output_stride is not None:
            raise ConfigError(f"model.vision.output_stride={self.output_stride}: vit3d has none; set it to null")


@dataclass(kw_only=True)
class TextConfig:
    """The text encoder, a BioGPT.

    Attributes:
        encoder: ``biogpt``; for ablations ``embedding_bag`` (a learned vector a word, nothing else) or ``null_token``
            (no text is read: one learned vector stands for it). The keys of BioGPT's layers mean nothing to these two.
        tokenizer: ``byte`` (needs no files), a directory with BioGPT's vocabulary, or a hub id.
        max_tokens: longer texts are cut.
        vocabulary_size: rows of the embedding table; at least the tokenizer's.
        hidden_size: width of the token states.
        layers: decoder layers.
        heads: attention heads of a layer.
        feed_forward_size: inner width of a layer's feed-forward part.
        max_positions: rows of BioGPT's own table of positions.
        dropout: on embeddings, attention weights and layer outputs, in training.
        weights: ``None`` (random), a local file or directory with weights of a BioGPT, or a hub id. The sizes must be
            the ones given here.
        trainable_blocks: how many of the last layers learn; 0 freezes the encoder, ``None`` trains all of it.
        lora: adapters beside the layers of the frozen encoder.
        pool: how a text becomes one vector: ``mean`` of its tokens or its ``last`` token. Never the first token:
            BioGPT is causal, its state there is the same for every text.
    """

    encoder: str = "biogpt"
    tokenizer: str = "microsoft/biogpt"
    max_tokens: int = 128
    vocabulary_size: int = 42384
    hidden_size: int = 1024
    layers: int = 24
    heads: int = 16
    feed_forward_size: int = 4096
    max_positions: int = 1024
    dropout: float = 0.1
    weights: str | None = None
    trainable_blocks: int | None = None
    lora: LoRAConfig = field(default_factory=lambda: LoRAConfig(targets=["q_proj", "v_proj"]))
    pool: str = "mean"

    def __post_init__(self) -> None:
        _positive("text", self, "max_tokens", "vocabulary_size", "hidden_size", "layers", "heads")
        _positive("text", self, "feed_forward_size", "max_positions")
        _probability("text", self, "dropout")
        _one_of("text", self, "encoder", ("biogpt", "embedding_bag", "null_token"))
        _one_of("text", self, "pool", ("mean", "last"))
        _divides("text", self, "heads", "hidden_size")
        _check_learning("text", self)
        if self.encoder != "biogpt" and (self.weights is not None or self.has_frozen_parts):
            raise ConfigError(
                f"model.text.encoder={self.encoder} always learns from random values; leave out model.text.weights, "
                "trainable_blocks and lora"
            )
        if self.max_tokens > self.max_positions:
            raise ConfigError(
                f"model.text.max_tokens={self.max_tokens}: BioGPT's position table has max_positions="
                f"{self.max_positions} rows; raise it or cut the texts shorter"
            )
        if self.tokenizer == BYTE_TOKENIZER and self.vocabulary_size < BYTE_VOCABULARY_SIZE:
            raise ConfigError(
                f"model.text.vocabulary_size={self.vocabulary_size}: "
                f"tokenizer=byte needs at least {BYTE_VOCABULARY_SIZE}"
            )

    @property
    def has_frozen_parts(self) -> bool:
        """Whether part of the encoder does not learn, and so does not travel."""
        return self.trainable_blocks is not None or self.lora.rank > 0


@dataclass(kw_only=True)
class FusionConfig:
    """Projections, positions, cross-attention and modality gate (paper, section 3.3).

    Attributes:
        kind: ``attention`` (the paper's), or ``concat`` for the ablation: z_v and z_t are pooled and concatenated, no
            token looks at another (A20); ``projections``, ``heads``, ``output_projection`` and ``residual`` then mean
            nothing.
        dim: d, the width of both projected modalities.
        tokens: ``all`` image and text tokens attend to each other; ``cls`` is the literal single-token reading,
            in which every attention weight is 1, so that F_v holds no image and F_t no text (reading A1).
        projections: ``shared`` W_Q, W_K, W_V in both directions, or ``separate`` ones (A3).
        heads: attention heads (A3; the paper writes one).
        output_projection: a linear layer after the attention of each direction (A3).
        residual: add the querying tokens, F_v + z_v and F_t + z_t (A4). The paper's formula has none; then an image
            reaches F_v only through attention weights. Recommended when training from scratch.
        layer_norm: normalise the tokens of both directions before they are pooled (A4).
        gate: ``modality`` weighs F_v and F_t by one number each, ``vector`` every component, ``none`` nothing (A5).
        gate_bias: initial bias of the gate; 1.0 starts it near sigmoid(1) = 0.73 (A5).
        max_text_positions: rows of the learned table of text positions.
    """

    kind: str = "attention"
    dim: int = 512
    tokens: str = "all"
    projections: str = "shared"
    heads: int = 1
    output_projection: bool = False
    residual: bool = False
    layer_norm: bool = True
    gate: str = "modality"
    gate_bias: float = 1.0
    max_text_positions: int = 256

    def __post_init__(self) -> None:
        _positive("fusion", self, "dim", "heads", "max_text_positions")
        _one_of("fusion", self, "kind", ("attention", "concat"))
        _one_of("fusion", self, "tokens", ("all", "cls"))
        _one_of("fusion", self, "projections", ("shared", "separate"))
        _one_of("fusion", self, "gate", ("modality", "vector", "none"))
        _divides("fusion", self, "heads", "dim")


@dataclass(kw_only=True)
class MoEConfig:
    """The sparse mixture of experts (paper, section 3.4).

    Attributes:
        experts: K, the number of experts.
        top_k: experts that each input is sent to; with ``top_p`` the most that it may be sent to.
        top_p: send each input to the fewest experts whose probabilities sum to at least this (arXiv 2403.07652; the
            paper's future work); ``None``: always to ``top_k``.
        entropy_alpha: weight of the mean entropy of the routing probabilities in the loss. With ``top_p`` it keeps
            the router from spreading its probability over all experts, which makes it use more of them.
        shared_experts: experts beside the K routed ones that take every input; their outputs are added
            (DeepSeekMoE, arXiv 2401.06066).
        upcycle_from: a trained model with ``experts=1`` (``final.safetensors`` of its run) to start from: every expert
            starts as a copy of its feed-forward network (sparse upcycling, arXiv 2212.05055). Needs ``renormalise``.
        upcycle_noise: standard deviation of normal noise on each copy, as a share of that of the tensor; 0 starts
            with the very function of the trained model.
        hidden_size: inner width of an expert; ``None`` is the fused width 2d (A7: "2d-layer MLP" read as a
            two-layer perceptron of width 2d).
        unit: what is routed: each ``sample``, or each image ``token`` together with the pooled text (A6).
        renormalise: divide the chosen routing weights by their sum Z (A8).
        router_noise: standard deviation of normal noise on the router's logits while experts are chosen in training
            (V-MoE, arXiv 2106.05974, uses 1/K). Not in the paper. From random weights all samples look alike to the
            router at first and would all go to the same two experts; with noise every expert gets to train.
        residual: add the input of the mixture to its output. Not in the paper; lets a small data set train the head
            before every expert has seen enough samples.
        balance_alpha: weight of the load-balancing loss.
        balance_scale: ``paper`` is alpha * sum f_k p_k, ``switch`` multiplies by K (A9).
    """

    experts: int = 8
    top_k: int = 2
    top_p: float | None = None
    entropy_alpha: float = 0.0
    shared_experts: int = 0
    upcycle_from: str | None = None
    upcycle_noise: float = 0.01
    hidden_size: int | None = None
    unit: str = "sample"
    renormalise: bool = True
    router_noise: float = 0.0
    residual: bool = False
    balance_alpha: float = 0.01
    balance_scale: str = "paper"

    def __post_init__(self) -> None:
        _positive("moe", self, "experts", "top_k")
        if self.hidden_size is not None:
            _positive("moe", self, "hidden_size")
        _one_of("moe", self, "unit", ("sample", "token"))
        _one_of("moe", self, "balance_scale", ("paper", "switch"))
        if self.top_k > self.experts:
            raise ConfigError(f"model.moe.top_k={self.top_k}: at most the number of experts, {self.experts}")
        for key in ("balance_alpha", "router_noise", "entropy_alpha", "shared_experts", "upcycle_noise"):
            if getattr(self, key) < 0:
                raise ConfigError(f"model.moe.{key}={getattr(self, key)}: use 0 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"model.moe.top_p={self.top_p}: use more than 0 and at most 1, or null for top_k experts")
        if self.upcycle_from is not None and (not self.renormalise or self.shared_experts):
            raise ConfigError(
                "model.moe.upcycle_from needs renormalise=true and shared_experts=0: otherwise the copies do not add "
                "up to the network that they were copied from"
            )


@dataclass(kw_only=True)
class MedVLMoEConfig:
    """The whole model. The defaults are the ``paper`` preset.

    Attributes:
        name: of the preset.
        variant: ``full``, or for the ablation ``vision_only``: the image encoder with a linear head on its token for
            the whole image (A19); ``text``, ``fusion`` and ``moe`` then mean nothing.
        vision: the image encoder.
        text: the text encoder.
        fusion: what joins them.
        moe: the experts.
    """

    name: str = "paper"
    variant: str = "full"
    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    moe: MoEConfig = field(default_factory=MoEConfig)

    def __post_init__(self) -> None:
        if self.text.max_tokens > self.fusion.max_text_positions:
            raise ConfigError(
                f"model.text.max_tokens={self.text.max_tokens}: fusion.max_text_positions="
                f"{self.fusion.max_text_positions} is smaller; raise it or cut the texts shorter"
            )
        if self.variant not in ("full", "vision_only"):
            raise ConfigError(f"model.variant={self.variant}: use full or vision_only")
        if self.moe.unit == "token" and self.fusion.tokens == "cls":
            raise ConfigError("model.moe.unit=token needs fusion.tokens=all: with cls there is one token")

    @property
    def expert_hidden_size(self) -> int:
        """Inner width of an expert."""
        return 2 * self.fusion.dim if self.moe.hidden_size is None else self.moe.hidden_size

    @property
    def expert_count(self) -> int:
        """Routed experts that the model has; 0 without a router."""
        return 0 if self.variant == "vision_only" else self.moe.experts

    @property
    def reads_text(self) -> bool:
        """Whether a prediction depends on the text."""
        return self.variant == "full" and self.text.encoder != "null_token"


def _check_learning(part: str, config: VisionConfig | TextConfig) -> None:
    lora, blocks = config.lora, config.trainable_blocks
    for key, value in (("trainable_blocks", blocks), ("lora.rank", lora.rank)):
        if value is not None and value < 0:
            raise ConfigError(f"model.{part}.{key}={value}: use 0 or more")
    if lora.rank == 0:
        return
    if blocks is not None:
        raise ConfigError(
            f"model.{part}.trainable_blocks={blocks} with lora.rank={lora.rank}: adapters freeze the whole encoder; "
            "set one of the two to null or 0"
        )
    if lora.alpha <= 0:
        raise ConfigError(f"model.{part}.lora.alpha={lora.alpha}: use more than 0")
    _probability(f"{part}.lora", lora, "dropout")
    if not lora.targets:
        raise ConfigError(f"model.{part}.lora.targets is empty: name the layers that get an adapter")


def _one_of(part: str, config: object, key: str, allowed: Sequence[object]) -> None:
    value = getattr(config, key)
    if value not in allowed:
        raise ConfigError(f"model.{part}.{key}={value}: use one of {', '.join(map(str, allowed))}")


def _positive(part: str, config: object, *keys: str) -> None:
    for key in keys:
        if getattr(config, key) < 1:
            raise ConfigError(f"model.{part}.{key}={getattr(config, key)}: use 1 or more")


def _probability(part: str, config: object, key: str) -> None:
    if not 0 <= getattr(config, key) < 1:
        raise ConfigError(f"model.{part}.{key}={getattr(config, key)}: use 0 or more and less than 1")


def _divides(part: str, config: object, key: str, total: str) -> None:
    if getattr(config, total) % getattr(config, key):
        raise ConfigError(
            f"model.{part}.{key}={getattr(config, key)} does not divide {total}={getattr(config, total)}; "
            f"choose a divisor"
        )
