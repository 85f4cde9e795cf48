import pytest
import torch
from safetensors.torch import save_file

from medvlmoe.errors import CheckpointError
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


def test_pretrained_directory(tmp_path) -> None:
    encoder = make_encoder()
    encoder.model.save_pretrained(tmp_path)
    loaded = make_encoder(weights=str(tmp_path))
    ids = torch.tensor([[2, 10, 11]])
    torch.testing.assert_close(loaded(ids, torch.ones_like(ids)), encoder(ids, torch.ones_like(ids)))


def test_missing_pretrained_directory_is_one_line(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.text\.weights") as caught:
        make_encoder(weights=str(tmp_path / "nowhere"))
    assert "\n" not in str(caught.value)
