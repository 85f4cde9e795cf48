"""Cross-modal fusion: projections, positions, cross-attention in both directions, modality gate.

Shapes: B batch, N image tokens, L text tokens, D fusion width d, F fused width 2d.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from medvlmoe.model.config import FusionConfig
from medvlmoe.model.text import pool_text


class CrossAttention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V with queries from one sequence, keys and values from another.

    Plain linear layers, no bias; with several heads the scale is that of a head's width.
    """

    def __init__(self, dim: int, heads: int = 1, output_projection: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False) if output_projection else None

    def forward(self, asking_BQD: Tensor, asked_BSD: Tensor, asked_mask_BS: Tensor | None = None) -> Tensor:
        """Attended values, shape (B, Q, D). Tokens of ``asked`` with mask 0 are not looked at."""
        query, key, value = (
            self._by_head(layer(tokens))
            for layer, tokens in ((self.query, asking_BQD), (self.key, asked_BSD), (self.value, asked_BSD))
        )
        mask = None if asked_mask_BS is None else asked_mask_BS.bool()[:, None, None, :]
        attended_BQD = scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
        return attended_BQD if self.output is None else self.output(attended_BQD)

    def weights(self, asking_BQD: Tensor, asked_BSD: Tensor, asked_mask_BS: Tensor | None = None) -> Tensor:
        """The attention weights behind :meth:`forward`, shape (B, heads, Q, S); they sum to 1 over S.

        For looking at: training never needs them as a whole.
        """
        query, key = self._by_head(self.query(asking_BQD)), self._by_head(self.key(asked_BSD))
        scores_BHQS = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if asked_mask_BS is not None:
            scores_BHQS = scores_BHQS.masked_fill(~asked_mask_BS.bool()[:, None, None, :], float("-inf"))
        return scores_BHQS.softmax(-1)

    def _by_head(self, tokens_BTD: Tensor) -> Tensor:
        return tokens_BTD.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class CrossModalFusion(nn.Module):
    """Bidirectional cross-attention between image tokens and text tokens (paper, section 3.3; readings A1, A3, A4).

    F_v = softmax((z_v W_Q)(z_t W_K)^T / sqrt(d)) (z_t W_V) and F_t the same with the modalities exchanged. With the
    defaults the output equals these formulas literally: one head, W_Q, W_K, W_V shared by both directions.

    Args:
        dim: d, width of the tokens.
        heads: attention heads.
        projections: ``shared`` or ``separate`` matrices for the two directions.
        output_projection: a linear layer after the attention.
        residual: add the querying tokens to the result.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 1,
        projections: str = "shared",
        output_projection: bool = False,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.attention = CrossAttention(dim, heads, output_projection)
        separate = projections == "separate"
        self.text_attention = CrossAttention(dim, heads, output_projection) if separate else None

    def forward(self, image_BND: Tensor, text_BLD: Tensor, text_mask_BL: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attend in both directions.

        Args:
            image_BND: z_v, projected image tokens.
            text_BLD: z_t, projected text tokens.
            text_mask_BL: 1 for tokens, 0 for padding; ``None`` when there is no padding.

        Returns:
            F_v of shape (B, N, D): image tokens that looked at the text, and F_t of shape (B, L, D): text tokens that
            looked at the image.
        """
        text_attention = self.attention if self.text_attention is None else self.text_attention
        fused_image_BND = self.attention(image_BND, text_BLD, text_mask_BL)
        fused_text_BLD = text_attention(text_BLD, image_BND)
        if self.residual:
            return fused_image_BND + image_BND, fused_text_BLD + text_BLD
        return fused_image_BND, fused_text_BLD


class Fused(NamedTuple):
    """What the experts read.

    Attributes:
        fused_BF: one gated vector [g_v F_v ; g_t F_t] per sample, shape (B, F).
        fused_BNF: the same for each image token (pooled text in the second half), shape (B, N, F); ``None`` unless
            asked for.
        gate_B2: weight of the image and of the text; means over components for the vector gate, 1 without a gate.
    """

    fused_BF: Tensor
    fused_BNF: Tensor | None
    gate_B2: Tensor


class Fusion(nn.Module):
    """Encoder states of both modalities to one fused vector per sample (paper, sections 3.2 end and 3.3).

    Args:
        config: fusion options.
        image_width: size of the image encoder's tokens.
        image_tokens: N, number of image tokens.
        text_width: size of the text encoder's token states.
        text_pool: ``mean`` or ``last``.
    """

    def __init__(
        self, config: FusionConfig, *, image_width: int, image_tokens: int, text_width: int, text_pool: str
    ) -> None:
        super().__init__()
        self.single_token = config.tokens == "cls"
        self.text_pool = text_pool
        self.attends = config.kind == "attention"
        self.gate_kind = config.gate
        self.image_projection = nn.Linear(image_width, config.dim)
        self.text_projection = nn.Linear(text_width, config.dim)
        self.image_positions = _position_table(image_tokens, config.dim)
        self.text_positions = _position_table(config.max_text_positions, config.dim)
        if self.attends:
            self.cross_attention = CrossModalFusion(
                config.dim,
                heads=config.heads,
                projections=config.projections,
                output_projection=config.output_projection,
                residual=config.residual,
            )
        self.image_norm = nn.LayerNorm(config.dim) if config.layer_norm else nn.Identity()
        self.text_norm = nn.LayerNorm(config.dim) if config.layer_norm else nn.Identity()
        self.gate = _gate(config)

    def forward(self, image_BNV: Tensor, text_BLT: Tensor, text_mask_BL: Tensor, *, every_token: bool = False) -> Fused:
        """Fuse the token states of both encoders.

        Args:
            image_BNV: image tokens, the one for the whole image at position 0.
            text_BLT: text token states.
            text_mask_BL: 1 for tokens, 0 for padding on the right.
            every_token: also give a fused vector per image token.
        """
        if self.single_token:  # reading A1: one key per direction, so every attention weight is 1
            image_BNV = image_BNV[:, :1]
            text_BLT = pool_text(text_BLT, text_mask_BL, self.text_pool).unsqueeze(1)
            text_mask_BL = text_mask_BL[:, :1]
        image_BND = _with_positions(self.image_projection(image_BNV), self.image_positions)
        text_BLD = _with_positions(self.text_projection(text_BLT), self.text_positions)
        fused_image_BND, fused_text_BLD = image_BND, text_BLD
        if self.attends:
            fused_image_BND, fused_text_BLD = self.cross_attention(image_BND, text_BLD, text_mask_BL)
        fused_image_BND, fused_text_BLD = self.image_norm(fused_image_BND), self.text_norm(fused_text_BLD)
        pooled_text_BD = pool_text(fused_text_BLD, text_mask_BL, self.text_pool)

        fused_BF = torch.cat([fused_image_BND[:, 0], pooled_text_BD], dim=-1)
        gate_BF = self._gate_of(fused_BF)
        fused_BNF = None
        if every_token:
            text_BND = pooled_text_BD.unsqueeze(1).expand_as(fused_image_BND)
            fused_BNF = torch.cat([fused_image_BND, text_BND], dim=-1) * gate_BF.unsqueeze(1)
        gate_B2 = gate_BF.unflatten(-1, (2, -1)).mean(-1)
        return Fused(fused_BF * gate_BF, fused_BNF, gate_B2)

    def _gate_of(self, fused_BF: Tensor) -> Tensor:
        """G(F) = sigmoid(W_g F) as a factor for every component (reading A5)."""
        if self.gate is None:
            return torch.ones_like(fused_BF)
        gate = torch.sigmoid(self.gate(fused_BF))
        return gate if self.gate_kind == "vector" else gate.repeat_interleave(fused_BF.shape[-1] // 2, dim=-1)


def _position_table(rows: int, dim: int) -> nn.Embedding:
    table = nn.Embedding(rows, dim)
    nn.init.normal_(table.weight, std=0.02)  # as vision transformers do; the default of 1 would drown the tokens
    return table


def _with_positions(tokens_BLD: Tensor, positions: nn.Embedding) -> Tensor:
    place_L = torch.arange(tokens_BLD.shape[1], device=tokens_BLD.device)
    return tokens_BLD + positions(place_L.expand(tokens_BLD.shape[:2]))  # by record, as a record's gradient needs it


def _gate(config: FusionConfig) -> nn.Linear | None:
    if config.gate == "none":
        return None
    fused = 2 * config.dim
    gate = nn.Linear(fused, fused if config.gate == "vector" else 2)
    nn.init.constant_(gate.bias, config.gate_bias)
    return gate
