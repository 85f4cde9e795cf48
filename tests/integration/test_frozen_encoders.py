"""Federations whose encoders start from files and do not learn as a whole."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from client import resident
from client.config import SiteConfig
from medvlmoe.command_line import run
from medvlmoe.configuration import compose
from medvlmoe.data.config import DatasetConfig
from medvlmoe.data.labels import LabelSpace
from medvlmoe.errors import CheckpointError
from medvlmoe.files import load_tensors, read_json_lines
from medvlmoe.model import MedVLMoEConfig, build_model
from medvlmoe.model.groups import parameter_group
from server.global_model import GlobalModel
from strategies.messages import RoundConfig
from strategies.run_config import RunConfig

SITES = ["~data.sites.chexpert", "~data.sites.mimic_cxr", "~data.sites.pathmnist"]
QUICK = ["model=tiny", "training.bootstrap_resamples=20", "training.precision=float32"]
BACKBONE = ["model.vision.backbone=test_vit", "model.vision.output_stride=null"]
ADAPTERS = ["model.vision.lora.rank=2", "model.text.trainable_blocks=0"]
MEAN = [0.3, 0.3, 0.3]


def encoder_files(folder: Path, seed: int = 9) -> list[str]:
    """Both encoders in directories as they are published; overrides that name them."""
    model = build_model(compose(RunConfig, [*QUICK, *BACKBONE]).model, 3, seed)
    (folder / "vision").mkdir(parents=True)
    save_file(model.vision.backbone.state_dict(), folder / "vision" / "model.safetensors")
    described = {"architecture": "test_vit", "pretrained_cfg": {"mean": MEAN, "std": [0.2, 0.2, 0.2]}}
    (folder / "vision" / "config.json").write_text(json.dumps(described))
    model.text.model.save_pretrained(folder / "text")
    return [f"model.vision.weights={folder / 'vision'}", f"model.text.weights={folder / 'text'}"]


def final(output: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    return load_tensors(output / "run" / "checkpoints" / "final.safetensors")


def test_adapters_travel_and_everything_else_of_the_encoders_stays(
    tmp_path: Path, phantom_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = encoder_files(tmp_path / "encoders")
    data = [f"data.root={phantom_root}", f"output.root={tmp_path}"]
    arguments = [*QUICK, *BACKBONE, *ADAPTERS, *weights, *SITES, *data, "output.name=run"]
    assert run(["simulate", *arguments, "federation.rounds=1"]) == 0
    # A run that goes on draws no new weights, and ends where an uninterrupted one does.
    assert run(["simulate", *arguments, "federation.rounds=2", "resume=true"]) == 0

    tensors, metadata = final(tmp_path)
    start = build_model(compose(RunConfig, arguments).model, len(tensors["head.bias"]), 0).state_dict()
    assert tensors.keys() == start.keys()
    moved = {name for name, tensor in tensors.items() if not torch.equal(tensor, start[name])}
    assert {parameter_group(name) for name in moved} >= {"vision", "fusion", "router", "head"}
    assert all("lora_" in name for name in moved if parameter_group(name) == "vision")
    assert all(parameter_group(name) != "text" for name in moved)

    travelled = list(read_json_lines(tmp_path / "run" / "rounds.jsonl"))[-1]["bytes_by_group"]
    assert "text" not in travelled
    assert travelled["vision"] == 4 * sum(t.numel() for name, t in tensors.items() if "lora_" in name)

    # The checkpoint holds all that a reader needs: values, and how images are normalised.
    assert json.loads(metadata["model"])["vision"]["mean"] == MEAN
    shutil.rmtree(tmp_path / "encoders")
    capsys.readouterr()
    checkpoint = tmp_path / "run" / "checkpoints" / "final.safetensors"
    assert run(["evaluate", *QUICK, *SITES, *data, f"checkpoint={checkpoint}"]) == 0
    printed = capsys.readouterr().out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    for name, site in summary["sites"].items():
        assert f"{site['auc']:.3f}" in next(line for line in printed.splitlines() if name in line)


def request_of(server: GlobalModel) -> RoundConfig:
    config = compose(RunConfig, QUICK)
    return RoundConfig(run="run", round=1, rounds=1, local_epochs=1, keep_optimizer_state=False, seed=0,
                       model=server.config_for_sites(), label_space=server.label_space, training=config.training,
                       frozen_sums=server.frozen_sums)  # fmt: skip


def site(**own: str) -> SiteConfig:
    return SiteConfig(name="north", dataset=DatasetConfig(kind="chexpert", root="here"), **own)  # type: ignore[arg-type]


@pytest.fixture
def server(tmp_path: Path) -> GlobalModel:
    resident.forget()
    weights = encoder_files(tmp_path / "server")
    config: MedVLMoEConfig = compose(RunConfig, [*QUICK, *BACKBONE, *ADAPTERS, *weights]).model
    return GlobalModel.initial(config, LabelSpace.single("test", "multilabel", ["a", "b", "c"]), seed=0)


def test_a_site_names_its_own_copy_of_the_weights(tmp_path: Path, server: GlobalModel) -> None:
    shutil.move(tmp_path / "server", tmp_path / "site")
    with pytest.raises(CheckpointError, match=r"model\.vision\.weights=.*server.vision: there is no such"):
        resident.resident_model(site(), request_of(server))
    own = site(vision_weights=str(tmp_path / "site" / "vision"), text_weights=str(tmp_path / "site" / "text"))
    model = resident.resident_model(own, request_of(server))
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in server.fixed.items())


def test_a_site_with_other_weights_is_refused(tmp_path: Path, server: GlobalModel) -> None:
    encoder_files(tmp_path / "other", seed=10)
    for part in ("vision", "text"):
        with pytest.raises(CheckpointError, match=f"the frozen part of '{part}' is not the server's"):
            resident.resident_model(site(**{f"{part}_weights": str(tmp_path / "other" / part)}), request_of(server))
    resident.resident_model(site(), request_of(server))


def test_encoders_that_learn_as_a_whole_need_no_file_at_a_site(tmp_path: Path) -> None:
    resident.forget()
    weights = encoder_files(tmp_path / "server")
    config = compose(RunConfig, [*QUICK, *BACKBONE, *weights]).model
    server = GlobalModel.initial(config, LabelSpace.single("test", "multilabel", ["a", "b", "c"]), seed=0)
    shutil.rmtree(tmp_path / "server")
    request = request_of(server)
    assert request.model.vision.weights is None and request.model.vision.mean == MEAN
    model = resident.resident_model(site(), request)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert server.frozen_sums == {}


def test_weights_that_are_not_there_leave_no_run_behind(
    tmp_path: Path, phantom_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "runs"
    arguments = [*QUICK, *SITES, f"data.root={phantom_root}", f"output.root={output}", "output.name=run"]
    for key in ("vision", "text"):
        assert run(["simulate", *arguments, f"model.{key}.weights={tmp_path / 'absent'}"]) == 2
        error = capsys.readouterr().err
        assert f"model.{key}.weights={tmp_path / 'absent'}" in error
        assert "Traceback" not in error
    assert not (output / "run" / "checkpoints").exists()
