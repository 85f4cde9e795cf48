"""What a comparison model's encoders want of the images and texts."""

from pathlib import Path

import pytest
import timm

from medvlmoe.baselines.encoders import baseline_vision
from medvlmoe.configuration import compose
from medvlmoe.errors import ConfigError
from simulation.baseline import with_baseline_inputs
from strategies.run_config import RunConfig


def configuration(name: str, *overrides: str) -> RunConfig:
    return compose(RunConfig, ["model=tiny", f"baseline={name}", *overrides])


@pytest.mark.parametrize("name", ["convirt", "clip_med", "biobert_vqa"])
def test_imagenet_is_what_timm_has_for_each_backbone(name: str) -> None:
    run = configuration(name, "baseline.image.weights=imagenet")
    vision = baseline_vision(run.baseline, run.model)
    assert f"{vision.backbone}.{vision.weights}" in timm.list_pretrained(f"{vision.backbone}.*")


def test_a_backbone_without_weights_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: None)
    run = configuration("convirt", "baseline.image.weights=imagenet")
    with pytest.raises(ConfigError, match="timm has none for resnet50"):
        baseline_vision(run.baseline, run.model)


def test_a_published_text_encoder_reads_with_its_own_tokenizer(tmp_path: Path) -> None:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "chest", "##s", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    own = f"baseline.text.tokenizer={tmp_path}"
    text = with_baseline_inputs(configuration("convirt", own)).text
    assert (text.tokenizer, text.vocabulary_size) == (str(tmp_path), len(pieces))
    shared = configuration("convirt", own, "baseline.backbone=shared")
    assert with_baseline_inputs(shared).text == shared.model.text, "MedVLMoE's own encoder reads as it always does"
