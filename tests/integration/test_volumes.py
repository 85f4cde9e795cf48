"""Three synthetic hospitals with CT, NIfTI and DICOM series, from their files to a federated model."""

import json

import pytest

from medvlmoe.command_line import run

SMALL = ["model.vision.image_size=32", "model.vision.depth=16", "model.vision.volume.layers=2",
         "model.vision.volume.width=48", "training.bootstrap_resamples=10"]  # fmt: skip


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    root = tmp_path_factory.mktemp("hospitals")
    assert run(["phantom", f"root={root}", "benchmarks=[volumes]", "images_per_site=80", "image_size=32"]) == 0
    return root


def test_the_volume_preset_learns(phantoms, tmp_path):
    arguments = [*SMALL, f"data.root={phantoms}", f"output.root={tmp_path}", "training.epochs=10", "compare=[]",
                 "training.batch_size=8"]  # fmt: skip
    assert run(["train", "experiment=volumes", "model.vision=vit3d", *arguments]) == 0
    sites = json.loads((tmp_path / "volumes/summary.json").read_text())["sites"]
    assert sites.keys() == {"north", "south", "east"}
    effusion = [site["per_label"]["Pleural Effusion"] for site in sites.values()]
    assert sum(effusion) / 3 > 0.62  # 0.5 is chance


@pytest.mark.parametrize("strategy", ["fedavg", "per_expert"])
def test_every_strategy_merges_it(phantoms, tmp_path, strategy):
    arguments = [*SMALL, f"data.root={phantoms}", f"output.root={tmp_path}", "federation.rounds=1", "compare=[]"]
    assert run(["simulate", "experiment=volumes", f"strategy={strategy}", *arguments]) == 0
    assert run(["evaluate", "experiment=volumes", *arguments,
                f"checkpoint={tmp_path}/volumes/checkpoints/final.safetensors"]) == 0  # fmt: skip


def test_a_flat_model_and_the_flat_yardstick_are_refused_in_one_line(phantoms, tmp_path, capsys):
    for arguments, message in (
        (["model=tiny", "data=phantom_volumes"], "choose model.vision=vit3d"),
        (["experiment=volumes", "compare=[yardstick]"], "reads flat images"),
    ):
        assert run(["simulate", *arguments, f"data.root={phantoms}", f"output.root={tmp_path}"]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert message in error
