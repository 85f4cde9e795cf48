"""Labels by name, the numbers of an explanation, and what the picture shows of them."""

import numpy as np
import pytest
import torch
from PIL import Image

from medvlmoe.analysis.explain.explanation import explain_image, find_block, read_normalised
from medvlmoe.analysis.explain.maps import image_maps
from medvlmoe.analysis.explain.picture import draw_explanation
from medvlmoe.configuration import compose
from medvlmoe.data import DatasetConfig, LabelSpace, build_dataset, load_tokenizer, site_label_space
from medvlmoe.errors import ConfigError
from medvlmoe.model import build_model
from strategies.run_config import RunConfig

SPACE = LabelSpace.union([LabelSpace.known("chestxray14"), LabelSpace.known("diabetic_retinopathy")])


def test_labels_are_found_by_any_of_their_names():
    for name in ("Pleural Effusion", "effusion", "pleural_effusion"):
        assert find_block(SPACE, None, name) == (SPACE.blocks[0], "Pleural Effusion")
    assert find_block(SPACE, None, "mild") == (SPACE.blocks[1], "diabetic_retinopathy/mild")
    assert find_block(SPACE, "findings", None) == (SPACE.blocks[0], None)


@pytest.mark.parametrize(
    ("block", "label", "message"),
    [
        (None, None, "answers for findings, diabetic_retinopathy: say what the image is about"),
        ("hand", None, "the model answers for findings, diabetic_retinopathy"),
        (None, "Cardiomegalie", "did you mean Cardiomegaly"),
        ("findings", "mild", "no such label"),
    ],
)
def test_unknown_labels_are_refused(block, label, message):
    with pytest.raises(ConfigError, match=message):
        find_block(SPACE, block, label)


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "chest.png")
    return tmp_path / "chest.png"


def explained(picture, *overrides, **more):
    model = build_model(compose(RunConfig, ["model=tiny", *overrides]).model, len(SPACE), seed=0)
    how = {"block": SPACE.blocks[0], "label": None, "text": "Chest. 57-year-old.", "opening": "Chest."} | more
    return model, explain_image(model, SPACE, picture, **how)


def test_numbers_are_those_of_the_model(picture):
    model, found = explained(picture)
    image = read_normalised(picture, model.config)
    ids, mask = load_tokenizer("byte").encode([found.text], 64)
    with torch.inference_mode():
        output = model(image, ids, mask)
        empty = model(torch.zeros_like(image), ids, mask)
        plain = model(image, *load_tokenizer("byte").encode(["Chest."], 64))
    expected = output.logits_BY[0, :14].sigmoid()
    np.testing.assert_allclose(list(found.probability.values()), expected, atol=1e-6)
    assert found.label == SPACE.labels[int(expected.argmax())]
    place = SPACE.labels.index(found.label)
    assert found.without_image == pytest.approx(float(empty.logits_BY[0, place].sigmoid()), abs=1e-6)
    assert found.without_text == pytest.approx(float(plain.logits_BY[0, place].sigmoid()), abs=1e-6)
    chosen = output.routing.expert_index_BJ[0]
    assert set(np.flatnonzero(found.expert_weight_K)) == set(chosen.tolist())
    np.testing.assert_allclose(found.expert_weight_K[chosen], output.routing.expert_weight_BJ[0], atol=1e-6)
    assert found.image_share == pytest.approx(float(output.gate_B2[0, 0] / output.gate_B2[0].sum()))
    assert found.pixels.shape[:2] == found.grad_cam.shape == found.attention.shape == (512, 512)
    assert not found.text_is_cut


def test_grades_are_shown_as_one_of_them(picture):
    _, found = explained(picture, block=SPACE.blocks[1], label="diabetic_retinopathy/mild")
    assert sum(found.probability.values()) == pytest.approx(1)
    assert found.label == "diabetic_retinopathy/mild"


def test_the_picture_shows_the_numbers(picture):
    _, found = explained(picture, text="Chest. " + "Long history. " * 20)
    figure = draw_explanation(found, "chest $1.png", "model.safetensors", ["PHANTOM", "LEAKY"], free_text=True)
    axes = figure.get_axes()
    words = " ".join(
        " ".join(text.get_text().split()) for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))
    )
    for wanted in (
        "NOT FOR CLINICAL USE LEAKY PHANTOM",
        "Attention is not explanation",
        "This model sees 4 x 4 places",
        "cut: longer than it reads",
        "given by hand",
        "chest $1.png",
    ):
        assert wanted in words
    bars = {axes[3].get_yticklabels()[n].get_text(): bar.get_width() for n, bar in enumerate(axes[3].patches)}
    ranked = sorted(found.probability.items(), key=lambda item: -item[1])[:8]
    assert list(bars) == [name for name, _ in ranked]
    np.testing.assert_allclose(list(bars.values()), [value for _, value in ranked])
    np.testing.assert_allclose([bar.get_height() for bar in axes[4].patches], 100 * found.expert_weight_K)
    assert axes[5].patches[0].get_width() == pytest.approx(found.image_share)
    np.testing.assert_allclose(axes[2].images[1].get_array(), found.grad_cam)


def test_a_model_without_gate_says_so(picture):
    _, found = explained(picture, "model.fusion.gate=none")
    assert found.gate is None and found.image_share is None
    assert draw_explanation(found, "a", "b").get_axes()[5].get_title(loc="left") == "The model has no gate"


def test_the_image_is_that_of_the_data_set(phantom_root, tmp_path):
    site = DatasetConfig(kind="chestxray14", root="chestxray14")
    config = compose(RunConfig, ["model=tiny"]).model
    dataset = build_dataset(
        site,
        "test",
        label_space=site_label_space(site, phantom_root),
        image_size=32,
        tokenizer=load_tokenizer("byte"),
        max_tokens=64,
        cache=tmp_path,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        data_root=phantom_root,
    )
    config.vision.mean, config.vision.std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    path = phantom_root / "chestxray14" / "images" / f"{dataset.study_ids[0]}.png"
    torch.testing.assert_close(read_normalised(path, config), dataset[0].image_BCHW, rtol=1e-4, atol=1e-5)


def test_of_a_volume_the_slice_with_the_strongest_map_is_shown(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    values = np.random.default_rng(0).normal(size=(30, 30, 20)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "chest.nii.gz")
    model, found = explained(
        tmp_path / "chest.nii.gz", "model.vision=vit3d", "model.vision.depth=16", "model.vision.image_size=24"
    )
    assert found.places == (4, 3, 3) and found.slices == 16 and 1 <= found.slice_number <= 16
    assert found.pixels.shape[:2] == found.attention.shape == (24, 24)
    ids, mask = load_tokenizer("byte").encode([found.text], 64)
    label = SPACE.labels.index(found.label)
    maps = image_maps(model, read_normalised(tmp_path / "chest.nii.gz", model.config), ids, mask, label)
    volume = torch.nn.functional.interpolate(maps.grad_cam[None, None], (16, 24, 24), mode="trilinear")[0, 0].numpy()
    assert found.slice_number - 1 == volume.max(axis=(1, 2)).argmax()
    np.testing.assert_allclose(found.grad_cam, volume[found.slice_number - 1] / volume.max(), atol=1e-5)
    title = draw_explanation(found, "chest.nii.gz", "model").get_axes()[0].get_title(loc="left")
    assert title.endswith(f"slice {found.slice_number} of 16")
