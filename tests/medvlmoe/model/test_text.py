import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import BioGptForCausalLM

from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.model import TextConfig
from medvlmoe.model.text import TextEncoder, pool_text

SMALL = {"tokenizer": "byte", "vocabulary_size": 260, "hidden_size": 16, "layers": 2, "heads": 2}
SMALL |= {"feed_forward_size": 32, "max_positions": 32, "max_tokens": 16}


def make_encoder(**options: object) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(TextConfig(**{**SMALL, **options})).eval()  # type: ignore[arg-type]


def test_first_state_is_the_same_for_every_text() -> None:
    ids = torch.tensor([[2, 10, 11, 12], [2, 90, 91, 92]])
    states = make_encoder()(ids, torch.ones_like(ids))
    torch.testing.assert_close(states[0, 0], states[1, 0])
    assert not torch.allclose(states[0, 1], states[1, 1])


def test_padding_content_and_length_do_not_reach_real_tokens() -> None:
    encoder = make_encoder()
    text = torch.tensor([[2, 10, 11, 12]])
    alone = encoder(text, torch.ones_like(text))
    padded = torch.cat([text, torch.tensor([[50, 60, 70]])], dim=1)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0]])
    torch.testing.assert_close(encoder(padded, mask)[:, :4], alone)


@pytest.mark.parametrize("how", ["mean", "last"])
def test_pooling_never_uses_position_0_nor_padding(how: str) -> None:
    states = torch.randn(2, 5, 3, requires_grad=True)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    pool_text(states, mask, how).sum().backward()
    assert states.grad is not None
    used = (states.grad != 0).all(-1)
    expected = {"mean": [[0, 1, 1, 0, 0], [0, 1, 1, 1, 1]], "last": [[0, 0, 1, 0, 0], [0, 0, 0, 0, 1]]}[how]
    assert used.long().tolist() == expected


def test_pooled_mean_is_the_mean() -> None:
    states = torch.randn(1, 4, 3)
    pooled = pool_text(states, torch.tensor([[1, 1, 1, 0]]), "mean")
    torch.testing.assert_close(pooled[0], states[0, 1:3].mean(0))


@pytest.mark.parametrize("how", ["mean", "last"])
def test_empty_text_gives_its_only_token(how: str) -> None:
    states = torch.randn(1, 3, 2)
    torch.testing.assert_close(pool_text(states, torch.tensor([[1, 0, 0]]), how), states[:, 0])


def test_anything_at_padding_is_ignored_even_nan() -> None:
    states = torch.tensor([[[1.0], [2.0], [float("nan")]]])
    assert pool_text(states, torch.tensor([[1, 1, 0]]), "mean").item() == 2.0


def test_local_weights_round_trip_and_misfit(tmp_path) -> None:
    encoder = make_encoder()
    path = tmp_path / "text.safetensors"
    save_file(encoder.model.state_dict(), path)
    torch.manual_seed(1)
    loaded = TextEncoder(TextConfig(**{**SMALL, "weights": str(path)}))  # type: ignore[arg-type]
    for ours, theirs in zip(loaded.parameters(), encoder.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(CheckpointError, match="missing"):
        make_encoder(layers=3, weights=str(path))
    with pytest.raises(CheckpointError, match="another shape"):
        make_encoder(vocabulary_size=300, weights=str(path))


def save_causal(folder: Path, **how: Any) -> BioGptForCausalLM:
    """A directory as transformers writes it for the language model, whose head this encoder does not have."""
    torch.manual_seed(3)
    model = BioGptForCausalLM(make_encoder().model.config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder, **how)
    return model.eval()


@pytest.mark.parametrize("form", ["encoder", "causal", "pieces", "bin"])
def test_pretrained_directory_gives_the_same_states(form: str, tmp_path: Path) -> None:
    if form == "encoder":
        model = make_encoder().model
        model.save_pretrained(tmp_path)
    else:
        causal = save_causal(tmp_path, **({"max_shard_size": "10KB"} if form == "pieces" else {}))
        model = causal.biogpt
        if form == "pieces":
            assert len(list(tmp_path.glob("*.safetensors"))) > 1
        if form == "bin":
            (tmp_path / "model.safetensors").unlink()
            torch.save(causal.state_dict(), tmp_path / "pytorch_model.bin")
    ids = torch.tensor([[2, 10, 11]])
    mask = torch.ones_like(ids)
    expected = model(input_ids=ids, attention_mask=mask).last_hidden_state
    assert torch.equal(make_encoder(weights=str(tmp_path))(ids, mask), expected)


@pytest.mark.parametrize(
    ("key", "value"),
    [("vocabulary_size", 300), ("hidden_size", 32), ("layers", 3), ("heads", 4), ("feed_forward_size", 64),
     ("max_positions", 64)],
)  # fmt: skip
def test_directory_of_other_sizes_is_refused_by_the_key(key: str, value: int, tmp_path: Path) -> None:
    save_causal(tmp_path)
    with pytest.raises(ConfigError, match=rf"model.text.{key}={value} but .* has {SMALL[key]}; set it to that"):
        make_encoder(weights=str(tmp_path), **{key: value})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("model_type", "gpt2", "describes a gpt2, not a biogpt"), ("hidden_act", "relu", "hidden_act=relu"),
     ("scale_embedding", False, "scale_embedding=False")],
)  # fmt: skip
def test_directory_of_another_kind_is_refused(key: str, value: object, message: str, tmp_path: Path) -> None:
    save_causal(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(CheckpointError, match=message):
        make_encoder(weights=str(tmp_path))


def test_partial_directory_is_refused_where_transformers_would_draw_the_rest_at_random(tmp_path: Path) -> None:
    causal = save_causal(tmp_path)
    state = {name: tensor for name, tensor in causal.state_dict().items() if "layers.1.fc1" not in name}
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"2 missing \(layers.1.fc1.weight, layers.1.fc1.bias\)"):
        make_encoder(weights=str(tmp_path))


def test_what_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"model\.text\.weights=.*nowhere: there is no such") as caught:
        make_encoder(weights=str(tmp_path / "nowhere"))
    assert "\n" not in str(caught.value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"model\.text\.weights=nobody/nothing: no file .* the hub") as caught:
        make_encoder(weights="nobody/nothing")
    assert "\n" not in str(caught.value)
