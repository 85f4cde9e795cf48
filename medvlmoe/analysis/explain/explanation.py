"""Everything that is told about one image, as numbers. Shapes: K experts, H W rows and columns of a map."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from medvlmoe.analysis.explain.maps import image_maps
from medvlmoe.analysis.routing.collect import expert_weights
from medvlmoe.data.image_shape import ImageShape
from medvlmoe.data.images import ImageFiles
from medvlmoe.data.intensity import AUTOMATIC, Intensity
from medvlmoe.data.known_labels import canonical_label
from medvlmoe.data.labels import LabelBlock, LabelSpace
from medvlmoe.data.tokenizer import load_tokenizer
from medvlmoe.errors import ConfigError
from medvlmoe.model.config import MedVLMoEConfig
from medvlmoe.model.medvlmoe import MedVLMoE
from medvlmoe.model.vision import image_normalisation
from medvlmoe.training.metrics import scores_from_logits

_SHOWN_SIZE = 512


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One image's prediction and what went into it.

    Attributes:
        label: the label that is explained.
        probability: by label of the block.
        without_text: probability of ``label`` when the text is the opening sentence alone.
        without_image: probability of ``label`` when the image is evenly grey (the mean of all images).
        expert_weight_K: weights of the experts; they sum to 1.
        gate: the gate's weights of image and text, each 0 to 1; ``None`` without a gate.
        text: what the model read.
        text_is_cut: whether it was longer than what the model reads.
        pixels: uint8, H x W or H x W x 3: the image, or the slice of a volume that the maps are strongest in.
        attention: map of the same size, 1 where a token has as much as if all had the same; ``None`` without one.
        attention_elsewhere: share of the attention on tokens that stand for the whole image.
        grad_cam: map of the same size, 0 to 1; ``None`` where no place raised the label.
        places: shape of the grid of image tokens: how fine both maps can be.
        slice_number: of a volume, from 1.
        slices: of a volume.
    """

    label: str
    probability: dict[str, float]
    without_text: float
    without_image: float
    expert_weight_K: npt.NDArray[np.float64]
    gate: tuple[float, float] | None
    text: str
    text_is_cut: bool
    pixels: npt.NDArray[np.uint8]
    attention: npt.NDArray[np.float32] | None
    attention_elsewhere: float | None
    grad_cam: npt.NDArray[np.float32] | None
    places: tuple[int, ...]
    slice_number: int | None = None
    slices: int | None = None

    @property
    def image_share(self) -> float | None:
        """The gate's share of the image, 0 to 1; that of the text is the rest."""
        return None if self.gate is None else self.gate[0] / max(sum(self.gate), 1e-12)


def explain_image(
    model: MedVLMoE,
    space: LabelSpace,
    image: Path,
    *,
    block: LabelBlock,
    label: str | None,
    text: str,
    opening: str,
    intensity: Intensity = AUTOMATIC,
    device: torch.device | str = "cpu",
) -> Explanation:
    """Predict and explain one image.

    Args:
        model: the trained model.
        space: its labels.
        image: a file of any format that the model's data may have; for volumes a NIfTI file or a folder.
        block: the labels that the image is about.
        label: the label of the block to explain; ``None``: the most probable one.
        text: what the model reads.
        opening: the text that is left when nothing is known of the patient.
        intensity: how more than 8 bits become 8.
        device: computes.

    Raises:
        ConfigError: no such label, or a package that reads the image is missing.
        DataError: the image cannot be read.
    """
    image_BCHW = read_normalised(image, model.config, intensity).to(device)
    model = model.to(device).eval().requires_grad_(False)
    tokens = [_tokens(model.config, words, device) for words in (text, opening)]
    columns = space.columns(block)
    with torch.inference_mode():
        changed = [(image_BCHW, tokens[0]), (image_BCHW, tokens[1]), (torch.zeros_like(image_BCHW), tokens[0])]
        scores = [_scores(model, space, pixels, *words)[columns] for pixels, words in changed]
    place = int(scores[0].argmax()) if label is None else block.labels.index(label)
    maps = image_maps(model, image_BCHW, *tokens[0], columns.start + place)
    routing, gate_B2 = maps.output.routing, maps.output.gate_B2
    assert routing is not None
    gated = model.config.fusion.gate != "none"
    pixels, (attention, grad_cam), where = _shown(image, model.config, intensity, maps.attention, maps.grad_cam)
    return Explanation(
        label=block.labels[place],
        probability=dict(zip(block.labels, scores[0].tolist(), strict=True)),
        without_text=float(scores[1][place]),
        without_image=float(scores[2][place]),
        expert_weight_K=expert_weights(routing, 1)[0].detach().cpu().numpy(),
        gate=None if gate_B2 is None or not gated else (gate_B2[0, 0].item(), gate_B2[0, 1].item()),
        text=text,
        text_is_cut=_token_count(model.config, text) > model.config.text.max_tokens,
        pixels=pixels,
        attention=attention,
        attention_elsewhere=maps.attention_elsewhere,
        grad_cam=None if grad_cam is None or grad_cam.max() <= 0 else grad_cam / grad_cam.max(),
        places=tuple(maps.grad_cam.shape),
        slice_number=None if where is None else where + 1,
        slices=model.config.vision.depth,
    )


def find_block(space: LabelSpace, block: str | None, label: str | None) -> tuple[LabelBlock, str | None]:
    """The block that an image is about and the label in it.

    Args:
        space: the model's labels.
        block: its name, if it is given.
        label: a label, in full or as it reads within its block, in any case; if it is given.

    Raises:
        ConfigError: there is none of that name, or several would do.
    """
    blocks = [one for one in space.blocks if block in (None, one.name)]
    if not blocks:
        raise ConfigError(f"block={block}: the model answers for {_joined(one.name for one in space.blocks)}")
    if label is not None:
        wanted = {label.casefold(), canonical_label(label).casefold()}
        there = [(one, name) for one in blocks for name in one.labels]
        found = [(one, name) for one, name in there if wanted & {name.casefold(), _within(name).casefold()}]
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigError(f"label={label}: several are called so ({_joined(name for _, name in found)})")
        alike = difflib.get_close_matches(label, [_within(name) for _, name in there], n=3, cutoff=0.5)
        listed = f"did you mean {' or '.join(alike)}?" if alike else f"it has {_joined(name for _, name in there)}"
        raise ConfigError(f"label={label}: the model has no such label; {listed}")
    if len(blocks) > 1:
        raise ConfigError(
            f"the model answers for {_joined(one.name for one in blocks)}: say what the image is about with block=…, "
            "or name a label=…"
        )
    return blocks[0], None


def read_normalised(image: Path, config: MedVLMoEConfig, intensity: Intensity = AUTOMATIC) -> Tensor:
    """The image as the model's data sets give it: 1 x C x H x W (volumes: 1 x C x D x H x W), normalised."""
    vision = config.vision
    shape = ImageShape(vision.channels, vision.image_size, vision.depth)
    pixels = torch.from_numpy(ImageFiles([image], intensity).decode(0, shape).copy())
    mean, std = (torch.tensor(values).view(-1, *[1] * (pixels.ndim - 1)) for values in image_normalisation(vision))
    return ((pixels.float() / 255 - mean) / std).unsqueeze(0)


def _scores(model: MedVLMoE, space: LabelSpace, image_BCHW: Tensor, input_ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
    return scores_from_logits(model(image_BCHW, input_ids_BL, mask_BL).logits_BY.float(), space)[0].cpu()


def _tokens(config: MedVLMoEConfig, text: str, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """One text without padding."""
    input_ids_BL, mask_BL = load_tokenizer(config.text.tokenizer).encode([text], config.text.max_tokens)
    length = int(mask_BL.sum())
    return input_ids_BL[:, :length].to(device), mask_BL[:, :length].to(device)


def _token_count(config: MedVLMoEConfig, text: str) -> int:
    longest = len(text.encode()) + 2  # no tokenizer makes more tokens than bytes, but for the special ones
    return int(load_tokenizer(config.text.tokenizer).encode([text], longest)[1].sum())


def _shown(
    image: Path, config: MedVLMoEConfig, intensity: Intensity, *maps: Tensor | None
) -> tuple[npt.NDArray[np.uint8], list[npt.NDArray[np.float32] | None], int | None]:
    """The image as it is shown, the maps at its size, and the slice of a volume that is shown."""
    vision = config.vision
    size = _SHOWN_SIZE if vision.depth is None else vision.image_size
    pixels = ImageFiles([image], intensity).decode(0, ImageShape(vision.channels, size, vision.depth))
    target = pixels.shape[1:]
    mode = "bilinear" if vision.depth is None else "trilinear"
    enlarged = [None if one is None else interpolate(one[None, None], target, mode=mode)[0, 0].numpy() for one in maps]
    if vision.depth is None:
        return _colours_last(pixels), enlarged, None
    there = [
        one for one in reversed(enlarged) if one is not None and one.max() > 0
    ]  # Grad-CAM decides before attention
    where = int(there[0].max(axis=(1, 2)).argmax()) if there else target[0] // 2
    return _colours_last(pixels[:, where]), [None if one is None else one[where] for one in enlarged], where


def _colours_last(pixels_CHW: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return pixels_CHW[0] if len(pixels_CHW) == 1 else pixels_CHW.transpose(1, 2, 0)


def _within(name: str) -> str:
    """A label as it reads within its block."""
    return name.rpartition("/")[2]


def _joined(names: Iterable[str]) -> str:
    return ", ".join(names)
