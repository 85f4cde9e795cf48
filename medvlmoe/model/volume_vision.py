"""Volume encoder: a vision transformer over blocks of voxels (the paper's future work, section 5).

Shapes: B batch, C channels, D H W slices, rows, columns, N tokens (the class token and one for each block), V width.
"""

from typing import TYPE_CHECKING

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from medvlmoe.model.config import VisionConfig


class VolumeTransformer(nn.Module):
    """A vision transformer (arXiv 2010.11929) whose patches are blocks of ``patch_depth`` x ``patch_size``² voxels.

    A 3-D convolution with kernel = stride = block makes the tokens; learned positions are added; timm's pre-norm
    blocks follow. Each learned tensor lies in a leaf module that is called with the tokens, so that hooks on modules
    (per-sample gradients) see all of them.

    Example: 32 slices of 48 x 48 with blocks of 4 x 8 x 8 give 1 + 8 * 6 * 6 = 289 tokens.
    """

    num_prefix_tokens = 1  # as timm's vision transformers say that there is a class token

    def __init__(self, config: "VisionConfig") -> None:
        super().__init__()
        volume = config.volume
        assert config.depth is not None
        block = (volume.patch_depth, volume.patch_size, volume.patch_size)
        blocks = (config.depth // volume.patch_depth) * (config.image_size // volume.patch_size) ** 2
        rising = [config.drop_path * layer / max(1, volume.layers - 1) for layer in range(volume.layers)]
        self._grad_checkpointing = False
        self.patch_embed = nn.Conv3d(config.channels, volume.width, kernel_size=block, stride=block)
        self.class_token = ClassToken(volume.width)
        self.position = LearnedPositions(1 + blocks, volume.width)
        self.blocks = nn.ModuleList(
            Block(volume.width, volume.heads, qkv_bias=True, drop_path=probability) for probability in rising
        )
        self.norm = nn.LayerNorm(volume.width, eps=1e-6)
        _initialise_as_timm(self)

    def forward_features(self, image_BCDHW: Tensor) -> Tensor:
        """Token states, shape (B, N, V); the class token comes first.

        Raises:
            ValueError: the volumes have another size than the configured one.
        """
        tokens_BNV = self.patch_embed(image_BCDHW).flatten(2).transpose(1, 2)
        tokens_BNV = self.position(self.class_token(tokens_BNV))
        for block in self.blocks:
            if self._grad_checkpointing:
                tokens_BNV = checkpoint(block, tokens_BNV, use_reentrant=False)
            else:
                tokens_BNV = block(tokens_BNV)
        return self.norm(tokens_BNV)

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """Which parameters belong to which block (timm's name for it)."""
        return {
            "stem": r"^(?:patch_embed|class_token|position)\.",
            "blocks": [(r"^blocks\.(\d+)\.", None), (r"^norm\.", (99999,))],  # with the block before it
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks' activations in the backward pass (timm's name for it)."""
        self._grad_checkpointing = enable


class ClassToken(nn.Module):
    """A learned token in front of the others."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, 1, width))
        nn.init.normal_(self.weight, std=1e-6)

    def forward(self, tokens_BNV: Tensor) -> Tensor:
        """One token more, at position 0."""
        first_B1V = self.weight.to(tokens_BNV.dtype).expand(len(tokens_BNV), -1, -1)
        return torch.cat([first_B1V, tokens_BNV], dim=1)


class LearnedPositions(nn.Module):
    """A learned vector for every position."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, count, width))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, tokens_BNV: Tensor) -> Tensor:
        """The tokens plus their positions.

        Raises:
            ValueError: there are more or fewer tokens than positions.
        """
        if tokens_BNV.shape[1] != self.weight.shape[1]:
            raise ValueError(f"{tokens_BNV.shape[1]} tokens for {self.weight.shape[1]} positions")
        return tokens_BNV + self.weight


def _initialise_as_timm(module: nn.Module) -> None:
    """Normal weights with standard deviation 0.02 and biases of 0, as timm's vision transformers start."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
