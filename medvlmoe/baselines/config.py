"""What can be chosen about the baselines of the paper's Table 1. Defaults are the published sizes."""

from dataclasses import dataclass, field

from medvlmoe.errors import ConfigError

BASELINES = ("convirt", "gloria", "biovil", "clip_med", "biobert_vqa")
IMAGENET = "imagenet"
PRETRAINING_TEXTS = ("auto", "report", "context", "captions")


@dataclass(kw_only=True)
class ImageBackboneConfig:
    """The image encoder of ``backbone=published``; size and channels of the images are the model's.

    Attributes:
        backbone: a timm model name.
        weights: ``None`` (random), a local file or directory, a timm pretrained tag, or ``imagenet``: the tag that timm
            has first for the backbone, whichever that is.
        normalisation: ``batch`` as published, or ``group``.
        output_stride: for convolutional backbones, pixels a token side; ``None`` is the backbone's own.
    """

    backbone: str = "resnet50"
    weights: str | None = None
    normalisation: str = "batch"
    output_stride: int | None = None

    def __post_init__(self) -> None:
        _one_of("image.normalisation", self.normalisation, ("batch", "group"))


@dataclass(kw_only=True)
class BertConfig:
    """The text encoder of ``backbone=published``, a BERT.

    Attributes:
        tokenizer: of this encoder, as ``model.text.tokenizer`` (a folder with a ``vocab.txt``); ``None``: the model's,
            with the model's vocabulary.
        hidden_size: width of the token states.
        layers: encoder layers.
        heads: attention heads of a layer.
        feed_forward_size: inner width of a layer's feed-forward part.
        max_positions: rows of the position table.
        dropout: on embeddings, attention weights and layer outputs, in training.
        weights: ``None`` (random), or a local file or directory with the weights of a BERT of these sizes.
        frozen_layers: with ``weights``, the embeddings and so many first layers do not learn (ConVIRT: 6). Random
            layers always learn.
    """

    tokenizer: str | None = None
    hidden_size: int = 768
    layers: int = 12
    heads: int = 12
    feed_forward_size: int = 3072
    max_positions: int = 512
    dropout: float = 0.1
    weights: str | None = None
    frozen_layers: int = 0

    def __post_init__(self) -> None:
        for key in ("hidden_size", "layers", "heads", "feed_forward_size", "max_positions"):
            _require(getattr(self, key) >= 1, f"text.{key}", getattr(self, key), "use 1 or more")
        _require(self.hidden_size % self.heads == 0, "text.heads", self.heads, f"it must divide {self.hidden_size}")
        _require(0 <= self.dropout < 1, "text.dropout", self.dropout, "use 0 or more and less than 1")
        _require(0 <= self.frozen_layers <= self.layers, "text.frozen_layers", self.frozen_layers, "use 0 to layers")


@dataclass(kw_only=True)
class PretrainingConfig:
    """Stage A, on the training rows of each site; ``biobert_vqa`` has none.

    Attributes:
        epochs: passes over the rows; the weights of the last one go on. 0 leaves the stage out.
        batch_size: pairs of a step; every other pair of the batch is a negative.
        learning_rate: of AdamW, constant after the warm-up.
        weight_decay: AdamW's decoupled decay.
        warmup: share of the steps in which the rate rises from 0.
        gradient_clip: largest norm of the gradient; ``None`` does not clip.
        text: what the images are paired with: ``report`` (the site's reports: they are a training target here, and no
            report is read in stage B or at test), ``context`` (what MedVLMoE reads), ``captions`` (made from the
            labels of the training rows), or ``auto``: reports for MIMIC-CXR, captions elsewhere.
    """

    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 1e-4
    weight_decay: float = 1e-6
    warmup: float = 0.0
    gradient_clip: float | None = None
    text: str = "auto"

    def __post_init__(self) -> None:
        _require(self.epochs >= 0, "pretraining.epochs", self.epochs, "use 0 or more")
        _require(self.batch_size >= 2, "pretraining.batch_size", self.batch_size, "a pair needs another to differ from")
        _require(self.learning_rate >= 0, "pretraining.learning_rate", self.learning_rate, "use 0 or more")
        _require(self.weight_decay >= 0, "pretraining.weight_decay", self.weight_decay, "use 0 or more")
        _require(0 <= self.warmup <= 1, "pretraining.warmup", self.warmup, "use a share from 0 to 1")
        _require(
            self.gradient_clip is None or self.gradient_clip > 0,
            "pretraining.gradient_clip",
            self.gradient_clip,
            "use a positive norm, or null",
        )
        _one_of("pretraining.text", self.text, PRETRAINING_TEXTS)


@dataclass(kw_only=True)
class ConVIRTConfig:
    """ConVIRT (Zhang et al. 2020, arXiv 2010.00747).

    Attributes:
        projection_size: width of the shared space.
        temperature: tau, by which cosines are divided.
        image_weight: lambda, weight of the image-to-text direction; the other one has 1 - lambda.
    """

    projection_size: int = 512
    temperature: float = 0.1
    image_weight: float = 0.75

    def __post_init__(self) -> None:
        _positive("convirt", self, "projection_size", "temperature")
        _require(0 <= self.image_weight <= 1, "convirt.image_weight", self.image_weight, "use a share from 0 to 1")


@dataclass(kw_only=True)
class GLoRIAConfig:
    """GLoRIA (Huang et al. 2021, ICCV). The shared space has the width of the text encoder.

    Attributes:
        attention_temperature: temp1, sharpens a word's attention over the regions.
        word_temperature: temp2, sharpens the sum over the words of a report.
        match_temperature: temp3, by which all similarities are multiplied.
        last_layers: how many of the last text layers are added up.
        local_weight: weight of the local loss beside the global one.
    """

    attention_temperature: float = 4.0
    word_temperature: float = 5.0
    match_temperature: float = 10.0
    last_layers: int = 4
    local_weight: float = 1.0

    def __post_init__(self) -> None:
        _positive("gloria", self, "attention_temperature", "word_temperature", "match_temperature", "last_layers")
        _require(self.local_weight >= 0, "gloria.local_weight", self.local_weight, "use 0 or more")


@dataclass(kw_only=True)
class BioViLConfig:
    """BioViL (Boecking et al. 2022, arXiv 2204.09817).

    Attributes:
        projection_size: width of the shared space.
        temperature: tau of the contrastive loss.
        language_weight: weight of the language modelling loss.
        mask_share: share of the tokens that are masked.
    """

    projection_size: int = 128
    temperature: float = 0.5
    language_weight: float = 0.1
    mask_share: float = 0.15

    def __post_init__(self) -> None:
        _positive("biovil", self, "projection_size", "temperature")
        _require(self.language_weight >= 0, "biovil.language_weight", self.language_weight, "use 0 or more")
        _require(0 < self.mask_share < 1, "biovil.mask_share", self.mask_share, "use a share between 0 and 1")


@dataclass(kw_only=True)
class ClipMedConfig:
    """CLIP-Med, read as MedCLIP (Wang et al. 2022, arXiv 2210.10163).

    Attributes:
        projection_size: width of the shared space.
        temperature: the learned scale of the cosines starts at 1 / temperature.
    """

    projection_size: int = 512
    temperature: float = 0.07

    def __post_init__(self) -> None:
        _positive("clip_med", self, "projection_size", "temperature")


@dataclass(kw_only=True)
class BioBERTVQAConfig:
    """BioBERT-VQA, read as the MFH fusion of VGG16 and BioBERT.

    Attributes:
        question: put before the text.
        fused_size: output width of a fusion block.
        factors: k, products that are added up for one output.
        dropout: on the products, in training.
    """

    question: str = "Which findings are present?"
    fused_size: int = 1000
    factors: int = 5
    dropout: float = 0.1

    def __post_init__(self) -> None:
        _positive("biobert_vqa", self, "fused_size", "factors")
        _require(0 <= self.dropout < 1, "biobert_vqa.dropout", self.dropout, "use 0 or more and less than 1")


@dataclass(kw_only=True)
class BaselineConfig:
    """One of the five comparison models (docs/baselines.md).

    Attributes:
        name: ``convirt``, ``gloria``, ``biovil``, ``clip_med`` or ``biobert_vqa``.
        backbone: ``published`` encoders, or ``shared``: those of ``model``, MedVLMoE's own (the fair column).
        text_at_test: ``none`` (as published, the image alone) or ``concat`` (the text's features beside the image's).
            ``biobert_vqa`` always fuses both: with ``none`` it reads the question alone.
        fine_tune: stage B trains ``full`` (all of it) or ``linear`` (the head on frozen encoders).
        image: published image encoder.
        text: published text encoder.
        pretraining: stage A.
        convirt: of ConVIRT.
        gloria: of GLoRIA.
        biovil: of BioViL.
        clip_med: of CLIP-Med.
        biobert_vqa: of BioBERT-VQA.
    """

    name: str = "convirt"
    backbone: str = "published"
    text_at_test: str = "none"
    fine_tune: str = "full"
    image: ImageBackboneConfig = field(default_factory=ImageBackboneConfig)
    text: BertConfig = field(default_factory=BertConfig)
    pretraining: PretrainingConfig = field(default_factory=PretrainingConfig)
    convirt: ConVIRTConfig = field(default_factory=ConVIRTConfig)
    gloria: GLoRIAConfig = field(default_factory=GLoRIAConfig)
    biovil: BioViLConfig = field(default_factory=BioViLConfig)
    clip_med: ClipMedConfig = field(default_factory=ClipMedConfig)
    biobert_vqa: BioBERTVQAConfig = field(default_factory=BioBERTVQAConfig)

    def __post_init__(self) -> None:
        _one_of("name", self.name, BASELINES)
        _one_of("backbone", self.backbone, ("published", "shared"))
        _one_of("text_at_test", self.text_at_test, ("none", "concat"))
        _one_of("fine_tune", self.fine_tune, ("full", "linear"))

    @property
    def reads_text(self) -> bool:
        """Whether a prediction depends on the text of a record."""
        return self.text_at_test == "concat"


def _require(holds: bool, key: str, value: object, mend: str) -> None:
    if not holds:
        raise ConfigError(f"baseline.{key}={value}: {mend}")


def _positive(method: str, config: object, *keys: str) -> None:
    for key in keys:
        value = getattr(config, key)
        _require(value > 0, f"{method}.{key}", value, "use a number above 0")


def _one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, key, value, f"use one of {', '.join(choices)}")
