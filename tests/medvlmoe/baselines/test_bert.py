from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medvlmoe.baselines.bert import BertText
from medvlmoe.baselines.config import BertConfig
from medvlmoe.data.tokenizer import load_tokenizer
from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.model.config import TextConfig

SIZES = {"hidden_size": 16, "layers": 3, "heads": 2, "feed_forward_size": 32, "max_positions": 40}
VOCABULARY = TextConfig(tokenizer="byte", vocabulary_size=260, max_tokens=32, hidden_size=16, heads=2)


def written(folder: Path, leave_out: str = "none") -> Path:
    """Weights as published: with a language head, under the names of an older release."""
    tensors = {
        f"bert.{name}": tensor.clone()
        for name, tensor in BertText(BertConfig(**SIZES), VOCABULARY).model.state_dict().items()
    }
    tensors = {name.replace(".LayerNorm.weight", ".LayerNorm.gamma"): tensor for name, tensor in tensors.items()}
    tensors["cls.predictions.bias"] = torch.zeros(260)
    path = folder / "model.safetensors"
    save_file({name: tensor for name, tensor in tensors.items() if leave_out not in name}, path)
    return path


def test_published_weights_are_read_and_the_first_layers_frozen(tmp_path: Path) -> None:
    text = BertText(BertConfig(**SIZES, weights=str(written(tmp_path)), frozen_layers=2), VOCABULARY)
    learning = {name.split(".")[1] + name.split(".")[2] for name, p in text.named_parameters() if p.requires_grad}
    assert learning == {"encoderlayer"} and all(".2." in n for n, p in text.named_parameters() if p.requires_grad)
    again = BertText(BertConfig(**SIZES, weights=str(tmp_path)), VOCABULARY)
    ids_BL = torch.tensor([[2, 50, 60]])
    text.eval(), again.eval()
    states = [each.hidden_states(ids_BL, torch.ones_like(ids_BL)) for each in (text, again)]
    assert len(states[0]) == 4 and torch.equal(states[0][-1], states[1][-1])


def test_random_layers_always_learn() -> None:
    assert all(p.requires_grad for p in BertText(BertConfig(**SIZES, frozen_layers=2), VOCABULARY).parameters())


def test_partial_weights_are_refused_with_what_is_missing(tmp_path: Path) -> None:
    path = written(tmp_path, leave_out="layer.1.attention.self.query.weight")
    with pytest.raises(CheckpointError, match=r"encoder\.layer\.1\.attention\.self\.query\.weight"):
        BertText(BertConfig(**SIZES, weights=str(path)), VOCABULARY)


def test_word_pieces_of_a_bert(tmp_path: Path) -> None:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "ede", "##ma", "seen"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    tokenizer = load_tokenizer(str(tmp_path))
    ids_NL, mask_NL = tokenizer.encode(["No edema", "seen"], 6)
    assert ids_NL.tolist() == [[2, 5, 6, 7, 3, 0], [2, 8, 3, 0, 0, 0]]
    assert mask_NL.tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]]
    assert tokenizer.mask_token == 4 and tokenizer.vocabulary_size == 9
    begins, ends = tokenizer.word_bounds()
    assert begins.tolist() == [piece != "##ma" for piece in pieces] and not ends.any()


def test_a_folder_that_is_no_bert(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("just\nwords\n")
    with pytest.raises(ConfigError, match=r"vocab\.txt"):
        load_tokenizer(str(tmp_path))


def test_recomputed_activations_give_equal_gradients_where_the_first_layers_are_frozen(tmp_path: Path) -> None:
    text = BertText(BertConfig(**SIZES, dropout=0.0, weights=str(written(tmp_path)), frozen_layers=1), VOCABULARY)
    ids_BL = torch.tensor([[2, 50, 60]])
    gradients = []
    for enabled in (False, True):
        text.zero_grad()
        text.set_gradient_checkpointing(enabled)
        text.hidden_states(ids_BL, torch.ones_like(ids_BL))[-1].square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in text.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and all("layer.0" not in name for name in gradients[1])
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
