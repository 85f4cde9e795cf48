"""The fusion against the paper's formulas, written out."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from medvlmoe.model import CrossModalFusion, FusionConfig
from medvlmoe.model.fusion import CrossAttention, Fusion

BATCH, IMAGE_TOKENS, TEXT_TOKENS, DIM = 3, 5, 7, 8
LENGTHS = [7, 4, 1]


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    mask = torch.arange(TEXT_TOKENS) < torch.tensor(LENGTHS).unsqueeze(1)
    return torch.randn(BATCH, IMAGE_TOKENS, DIM), torch.randn(BATCH, TEXT_TOKENS, DIM), mask.long()


def written_out(attention: CrossAttention, asking: Tensor, asked: Tensor) -> Tensor:
    """softmax((x W_Q)(y W_K)^T / sqrt(d)) (y W_V) for one sample without padding, head by head."""
    results = []
    width = DIM // attention.heads
    for head in range(attention.heads):
        rows = slice(head * width, (head + 1) * width)
        query, key, value = (layer.weight[rows].T for layer in (attention.query, attention.key, attention.value))
        scores = (asking @ query) @ (asked @ key).T / math.sqrt(width)
        results.append(torch.softmax(scores, dim=-1) @ (asked @ value))
    result = torch.cat(results, dim=-1)
    return result if attention.output is None else result @ attention.output.weight.T


@pytest.mark.parametrize(
    ("heads", "projections", "output_projection", "residual"),
    list(product([1, 2], ["shared", "separate"], [False, True], [False, True])),
)
def test_fusion_equals_the_written_out_formulas(
    heads: int, projections: str, output_projection: bool, residual: bool
) -> None:
    image, text, mask = inputs()
    fusion = CrossModalFusion(
        DIM, heads=heads, projections=projections, output_projection=output_projection, residual=residual
    )
    fused_image, fused_text = fusion(image, text, mask)
    for sample, length in enumerate(LENGTHS):
        z_v, z_t = image[sample], text[sample, :length]
        expected_image = written_out(fusion.attention, z_v, z_t) + residual * z_v
        expected_text = written_out(fusion.text_attention or fusion.attention, z_t, z_v) + residual * z_t
        torch.testing.assert_close(fused_image[sample], expected_image)
        torch.testing.assert_close(fused_text[sample, :length], expected_text)


def test_shared_projections_are_three_matrices_and_separate_ones_six() -> None:
    assert [tuple(p.shape) for p in CrossModalFusion(DIM).parameters()] == [(DIM, DIM)] * 3
    assert len(list(CrossModalFusion(DIM, projections="separate").parameters())) == 6


def test_single_token_attention_is_degenerate() -> None:
    """Reading A1: the softmax over one key is 1, so F_v = z_t W_V does not depend on the image, nor F_t on the text."""
    image, text, _ = inputs()
    fusion = CrossModalFusion(DIM)
    fused_image, fused_text = fusion(image[:, :1], text[:, :1])
    torch.testing.assert_close(fused_image, fusion.attention.value(text[:, :1]))
    torch.testing.assert_close(fused_text, fusion.attention.value(image[:, :1]))


def make_fusion(**options: object) -> Fusion:
    torch.manual_seed(1)
    config = FusionConfig(dim=DIM, max_text_positions=TEXT_TOKENS, **options)  # type: ignore[arg-type]
    return Fusion(config, image_width=DIM, image_tokens=IMAGE_TOKENS, text_width=DIM, text_pool="mean")


def test_cls_tokens_leave_no_image_in_the_image_half() -> None:
    image, text, mask = inputs()
    fusion = make_fusion(tokens="cls", gate="none")
    one, other = (fusion(tokens, text, mask).fused_BF for tokens in (image, image + torch.randn_like(image)))
    torch.testing.assert_close(one[:, :DIM], other[:, :DIM])
    assert not torch.allclose(one[:, DIM:], other[:, DIM:])


def test_all_tokens_bring_the_image_into_both_halves() -> None:
    image, text, mask = inputs()
    fusion = make_fusion(gate="none")
    one, other = (fusion(tokens, text, mask).fused_BF for tokens in (image, image + torch.randn_like(image)))
    assert not torch.allclose(one[0, :DIM], other[0, :DIM])
    assert not torch.allclose(one[0, DIM:], other[0, DIM:])


def test_modality_gate_weighs_the_two_halves() -> None:
    image, text, mask = inputs()
    gated, plain = make_fusion(), make_fusion(gate="none")
    plain.load_state_dict({name: tensor for name, tensor in gated.state_dict().items() if not name.startswith("gate.")})
    assert gated.gate is not None
    fused = plain(image, text, mask).fused_BF
    gate = torch.sigmoid(fused @ gated.gate.weight.T + gated.gate.bias)
    expected = torch.cat([gate[:, :1] * fused[:, :DIM], gate[:, 1:] * fused[:, DIM:]], dim=1)
    result = gated(image, text, mask)
    torch.testing.assert_close(result.fused_BF, expected)
    torch.testing.assert_close(result.gate_B2, gate)


@pytest.mark.parametrize(("gate", "rows"), [("modality", 2), ("vector", 2 * DIM), ("none", None)])
def test_gate_sizes(gate: str, rows: int | None) -> None:
    image, text, mask = inputs()
    fusion = make_fusion(gate=gate)
    assert (fusion.gate.out_features if fusion.gate is not None else None) == rows
    gate_B2 = fusion(image, text, mask).gate_B2
    assert gate_B2.shape == (BATCH, 2)
    assert bool((gate_B2 == 1).all()) == (gate == "none")


def test_initial_gate_follows_its_bias() -> None:
    image, text, mask = inputs()
    fusion = make_fusion(gate_bias=30.0)
    torch.testing.assert_close(fusion(image, text, mask).gate_B2, torch.ones(BATCH, 2))


def test_token_states_hold_the_sample_state_at_position_0() -> None:
    image, text, mask = inputs()
    fused = make_fusion()(image, text, mask, every_token=True)
    assert fused.fused_BNF is not None
    assert fused.fused_BNF.shape == (BATCH, IMAGE_TOKENS, 2 * DIM)
    torch.testing.assert_close(fused.fused_BNF[:, 0], fused.fused_BF)
