"""A model built by a process of its own is the one that this process would have built, and is not in its memory."""

import os
import time
from pathlib import Path

import pytest
import torch

from medvlmoe.configuration import compose
from medvlmoe.data.labels import LabelSpace
from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.files import TensorFile
from medvlmoe.model.config import MedVLMoEConfig
from server.global_model import GlobalModel
from server.model_process import initial_model, model_to_resume
from strategies.run_config import RunConfig

SPACE = LabelSpace.single("test", "multilabel", ["a", "b", "c"])


@pytest.fixture(scope="module")
def config() -> MedVLMoEConfig:
    return compose(RunConfig, ["model=tiny", "data=none"]).model


def test_the_same_model_and_nothing_left_behind(config: MedVLMoEConfig, tmp_path: Path) -> None:
    left_over, of_another = tmp_path / ".building-killed", tmp_path / ".building-now"
    for folder in (left_over, of_another):
        folder.mkdir()
    os.utime(left_over, (time.time() - 7200,) * 2)
    ours, here = initial_model(config, SPACE, 3, str(tmp_path)), GlobalModel.initial(config, SPACE, 3)
    assert list(tmp_path.iterdir()) == [of_another]
    assert ours.config == here.config
    assert isinstance(ours.exchanged, TensorFile) and list(ours.exchanged) == list(here.exchanged)
    assert all(torch.equal(ours.exchanged[name], here.exchanged[name]) for name in here.exchanged)
    assert list(ours.fixed) == list(here.fixed)
    assert all(torch.equal(ours.fixed[name], here.fixed[name]) for name in here.fixed)
    assert ours.frozen_sums == here.frozen_sums


def test_a_model_to_resume_has_names_and_shapes(config: MedVLMoEConfig) -> None:
    ours, here = model_to_resume(config, SPACE), GlobalModel.to_resume(config, SPACE)
    assert ours.config == here.config
    for own, other in ((ours.exchanged, here.exchanged), (ours.fixed, here.fixed)):
        assert {name: own[name].shape for name in own} == {name: other[name].shape for name in other}


def test_a_mistake_in_the_model_is_the_same_one_line(config: MedVLMoEConfig, tmp_path: Path) -> None:
    weights = compose(RunConfig, ["model=tiny", "data=none", f"model.vision.weights={tmp_path}/absent.safetensors"])
    with pytest.raises((ConfigError, CheckpointError)) as there:
        GlobalModel.initial(weights.model, SPACE, 3)
    with pytest.raises(type(there.value)) as ours:
        initial_model(weights.model, SPACE, 3, str(tmp_path))
    assert str(ours.value) == str(there.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_is_one_clear_line(config: MedVLMoEConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"output\.root"):
        initial_model(config, SPACE, 3, str(tmp_path / "file" / "below"))
