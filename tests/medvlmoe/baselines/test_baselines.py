"""All five methods, with both kinds of encoders."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from medvlmoe.baselines import BASELINES, BaselineConfig
from medvlmoe.baselines.build import build_baseline
from medvlmoe.baselines.config import PretrainingConfig
from medvlmoe.baselines.contrastive import ContrastiveBaseline, Texts
from medvlmoe.baselines.encoders import uses_batch_normalisation
from medvlmoe.baselines.pretraining import CHECKPOINT, pretrain
from medvlmoe.configuration import compose
from medvlmoe.data.batch import Batch
from medvlmoe.data.tokenizer import ByteTokenizer
from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.model.costs import measure_cost
from medvlmoe.model.groups import parameter_group
from medvlmoe.seeds import seeded_generator
from strategies.run_config import RunConfig

CONTRASTIVE = [name for name in BASELINES if name != "biobert_vqa"]
CPU = torch.device("cpu")
WORDS = ("dark", "bright left", "bright right", "striped")


def configuration(name: str, *overrides: str) -> RunConfig:
    return compose(RunConfig, ["model=tiny", f"baseline={name}", "baseline/encoders=tiny", *overrides])


def build(name: str, *overrides: str, labels: int = 4) -> torch.nn.Module:
    run = configuration(name, *overrides)
    return build_baseline(run.baseline, run.model, labels, seed=0)


class Pictures:
    """Four kinds of pictures, each with the words that name it; the label is the kind."""

    def __init__(self, count: int) -> None:
        generator = seeded_generator(0, "pictures")
        self.kind_N = torch.arange(count) % 4
        self.labels_NY = torch.nn.functional.one_hot(self.kind_N, 4).float()
        self.image_NCHW = 0.3 * torch.randn(count, 3, 32, 32, generator=generator)
        self.image_NCHW[self.kind_N == 1, :, :, :16] += 1
        self.image_NCHW[self.kind_N == 2, :, :, 16:] += 1
        self.image_NCHW[self.kind_N == 3, :, ::2] += 1
        self.tokens = ByteTokenizer().encode([WORDS[kind] for kind in self.kind_N.tolist()], 16)

    def __len__(self) -> int:
        return len(self.labels_NY)

    def texts(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        return self.tokens[0][rows], self.tokens[1][rows]

    def __getitems__(self, rows: list[int]) -> Batch:
        ids_BL, mask_BL = self.texts(rows)
        names = [str(row) for row in rows]
        return Batch(self.image_NCHW[rows], ids_BL, mask_BL, self.labels_NY[rows], names, names)


def loss_of(model: torch.nn.Module, pictures: Pictures) -> Tensor:
    assert isinstance(model, ContrastiveBaseline)
    texts = Texts(*pictures.tokens, pictures.labels_NY)
    return model.pretraining_loss(pictures.image_NCHW, pictures.labels_NY, texts)


@pytest.mark.parametrize("backbone", ["published", "shared"])
@pytest.mark.parametrize("name", BASELINES)
def test_every_parameter_has_a_group_and_predictions_their_shape(name: str, backbone: str) -> None:
    model = build(name, f"baseline.backbone={backbone}", labels=7)
    assert {parameter_group(n) for n, _ in model.named_parameters()} == {"vision", "text", "fusion", "head"}
    batch = Pictures(4).__getitems__([0, 1, 2])
    assert model(batch.image_BCHW, batch.input_ids_BL, batch.attention_mask_BL).logits_BY.shape == (3, 7)


@pytest.mark.parametrize("backbone", ["published", "shared"])
@pytest.mark.parametrize("name", CONTRASTIVE)
def test_stage_a_reaches_both_encoders(name: str, backbone: str) -> None:
    model = build(name, f"baseline.backbone={backbone}")
    loss_of(model, Pictures(8)).backward()
    for part in ("vision", "text", "fusion"):
        moved = [p for p in model.get_submodule(part).parameters() if p.grad is not None and p.grad.abs().sum() > 0]
        assert moved, part
    assert all(p.grad is None for p in model.get_submodule("head").parameters())


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("text_at_test", ["none", "concat"])
def test_text_at_test(name: str, text_at_test: str) -> None:
    model = build(name, f"baseline.text_at_test={text_at_test}").eval()
    image_BCHW = Pictures(2).image_NCHW
    here, there = (model(image_BCHW, *ByteTokenizer().encode([text] * 2, 16)).logits_BY for text in ("AP", "lateral"))
    assert torch.equal(here, there) == (text_at_test == "none")


@pytest.mark.parametrize("name", BASELINES)
def test_padding_changes_no_prediction(name: str) -> None:
    model = build(name, "baseline.text_at_test=concat").eval()
    image_BCHW = Pictures(2).image_NCHW
    short, long = (model(image_BCHW, *ByteTokenizer().encode(["frontal"] * 2, size)).logits_BY for size in (8, 30))
    assert torch.allclose(short, long, atol=1e-5)


def test_the_weights_depend_on_the_seed_only() -> None:
    run = configuration("gloria")
    first, same, other = (build_baseline(run.baseline, run.model, 3, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_clip_med_draws_texts_independently_and_holds_its_scale() -> None:
    model = build("clip_med")
    assert model.decoupled
    scale = model.get_submodule("fusion.scale")
    assert float(scale()) == pytest.approx(1 / 0.07)
    with torch.no_grad():
        scale.log_scale.fill_(50.0)
    assert float(scale()) == pytest.approx(100.0)


def test_gloria_sees_finer_regions_than_the_last_stage() -> None:
    coarse = build("gloria", "baseline.image.output_stride=null")
    regions = coarse.get_submodule("fusion.region_projection").in_features
    assert regions == 192 and coarse.vision.width == 96  # channels of timm's test_resnet, stages 3 and 4


def test_batch_normalisation_is_told() -> None:
    assert uses_batch_normalisation(build("biovil"))
    assert not uses_batch_normalisation(build("biovil", "baseline.image.normalisation=group"))


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_stage_a_teaches_the_pairs(name: str) -> None:
    """After it, pictures are told apart by the words that fit them better than before."""
    model, pictures = build(name), Pictures(64)
    torch.manual_seed(0)
    before = float(loss_of(model.eval(), Pictures(32)).detach())
    config = PretrainingConfig(epochs=5, batch_size=16, learning_rate=3e-3)
    losses = pretrain(model, pictures, config, seed=0, device=CPU, precision="float32")
    torch.manual_seed(0)
    after = float(loss_of(model.eval(), Pictures(32)).detach())
    assert losses[-1] < losses[0] and after < before - 0.1, (before, after)


def test_a_stage_that_was_interrupted_ends_with_the_same_bits(tmp_path: Path) -> None:
    pictures = Pictures(32)

    def run(model: torch.nn.Module, epochs: int, folder: Path, resume: bool = False) -> torch.nn.Module:
        config = PretrainingConfig(epochs=4, batch_size=8, learning_rate=1e-3)
        assert isinstance(model, ContrastiveBaseline)
        if epochs < config.epochs:
            with pytest.raises(KeyboardInterrupt):
                pretrain(model, Interrupted(pictures, epochs), config, seed=1, device=CPU, checkpoint_folder=folder)
        else:
            pretrain(model, pictures, config, seed=1, device=CPU, checkpoint_folder=folder, resume=resume)
        return model

    whole = run(build("biovil"), 4, tmp_path / "whole")
    run(build("biovil"), 2, tmp_path / "cut")
    resumed = run(build("biovil"), 4, tmp_path / "cut", resume=True)
    states = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


class Interrupted(Pictures):
    """Stops the run in the middle of an epoch."""

    def __init__(self, pictures: Pictures, epochs: int) -> None:
        self.__dict__.update(pictures.__dict__)
        self.batches_left = 4 * epochs + 2

    def __getitems__(self, rows: list[int]) -> Batch:
        self.batches_left -= 1
        if self.batches_left < 0:
            raise KeyboardInterrupt
        return super().__getitems__(rows)


def test_other_settings_do_not_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    config = PretrainingConfig(epochs=1, batch_size=8)
    model = build("convirt")
    assert isinstance(model, ContrastiveBaseline)
    pretrain(model, Pictures(16), config, seed=0, device=CPU, checkpoint_folder=tmp_path)
    assert (tmp_path / CHECKPOINT).exists()
    other = replace(config, learning_rate=0.5)
    with pytest.raises(CheckpointError, match="other settings"):
        pretrain(model, Pictures(16), other, seed=0, device=CPU, checkpoint_folder=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "clip"}, "baseline.name=clip"),
        ({"backbone": "big"}, "published, shared"),
        ({"text_at_test": "yes"}, "none, concat"),
        ({"fine_tune": "half"}, "full, linear"),
    ],
)
def test_mistakes(values: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        BaselineConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["baseline.convirt.temperature=0"], r"baseline\.convirt\.temperature=0"),
        (["baseline.gloria.last_layers=0"], r"baseline\.gloria\.last_layers=0"),
        (["baseline.biovil.mask_share=1.5"], r"baseline\.biovil\.mask_share=1\.5"),
        (["baseline.clip_med.projection_size=0"], r"baseline\.clip_med\.projection_size=0"),
        (["baseline.biobert_vqa.factors=0"], r"baseline\.biobert_vqa\.factors=0"),
        (["baseline.image.normalisation=layer"], r"baseline\.image\.normalisation=layer"),
        (["baseline.backbone=shared", "model.text.encoder=null_token"], "needs model.text.encoder=biogpt"),
        (["model.vision=vit3d"], "use baseline.backbone=shared"),
    ],
)
def test_settings_that_no_method_can_have(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build("gloria", *overrides)


def test_volumes_have_regions_too() -> None:
    model = build("gloria", "baseline.backbone=shared", "model.vision=vit3d", "model.vision.image_size=16",
                  "model.vision.depth=8")  # fmt: skip
    texts = Texts(*ByteTokenizer().encode(["frontal", "AP"], 16), torch.eye(2, 4))
    assert isinstance(model, ContrastiveBaseline)
    loss = model.pretraining_loss(torch.randn(2, 1, 8, 16, 16), texts.labels_BY, texts)
    assert torch.isfinite(loss) and loss > 0


def test_texts_that_do_not_fit_the_position_table() -> None:
    with pytest.raises(ConfigError, match=r"baseline\.text\.max_positions=20"):
        build("convirt", "baseline.text.max_positions=20")


@pytest.mark.parametrize("text_at_test", ["none", "concat"])
@pytest.mark.parametrize("name", CONTRASTIVE)
def test_active_parameters_are_those_that_move_a_prediction(name: str, text_at_test: str) -> None:
    model = build(name, f"baseline.text_at_test={text_at_test}").eval()
    sample = Pictures(1).__getitems__([0])
    cost = measure_cost(model, [sample])
    model(sample.image_BCHW, sample.input_ids_BL, sample.attention_mask_BL).logits_BY.sum().backward()
    used = sum(parameter.numel() for parameter in model.parameters() if parameter.grad is not None)
    assert cost.active == used < cost.parameters
