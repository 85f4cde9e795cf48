"""``medvlmoe explain`` on a trained model."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvlmoe.analysis.explain.command import ExplainConfig, _text
from medvlmoe.command_line import run
from medvlmoe.configuration import compose
from medvlmoe.data.labels import LabelSpace
from tests.integration.conftest import QUICK, Hospital
from tests.medvlmoe.data.dicom_files import write_dicom


@pytest.fixture(scope="module")
def hospital(tmp_path_factory) -> Hospital:
    return Hospital(tmp_path_factory.mktemp("explain") / "north")


@pytest.fixture(scope="module")
def checkpoint(hospital) -> Path:
    root = hospital.root.parent
    site = "+data.sites.north={kind:manifest,root:north,manifest:site.yaml}"
    output = [f"output.root={root}/runs", "output.name=run"]
    assert run(["simulate", "mode=centralized", *QUICK, "data=none", f"data.root={root}", site, *output]) == 0
    return root / "runs" / "run" / "checkpoints" / "final.safetensors"


def test_one_picture_of_one_image(checkpoint, hospital, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["explain", f"checkpoint={checkpoint}", f"image={hospital.image(7)}", "label=effusion"]
    facts = ["age=57", "sex=F", "view=PA"]
    assert run([*arguments, *facts, "output=out/why.png"]) == 0
    printed = capsys.readouterr().out
    assert "Pleural Effusion: 0." in printed and "gate: image" in printed and "out/why.png" in printed
    with Image.open(tmp_path / "out" / "why.png") as picture:
        assert picture.format == "PNG" and picture.width > 1000
        assert np.asarray(picture).std() > 10
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["why.png"]  # nothing half-written beside it
    first = (tmp_path / "out" / "why.png").read_bytes()
    assert run([*arguments, *facts, "output=out/why.png"]) == 0
    assert (tmp_path / "out" / "why.png").read_bytes() == first
    assert run([*arguments, "text=Chest, PA; fever: $5", "output=why.svg"]) == 0
    assert run(arguments) == 0
    assert (tmp_path / "7-explained.png").exists()


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        (["view=PA"], "Frontal chest radiograph, PA view."),
        (["view=lateral"], "Chest radiograph, lateral view."),
        (["view=lateral", "prompt=Thorax"], "Thorax, lateral view."),
        ([], "Frontal chest radiograph."),
    ],
)
def test_no_model_reads_of_a_frontal_lateral_view(facts: list[str], text: str) -> None:
    config = compose(ExplainConfig, facts, config_name="explain")
    assert _text(config, LabelSpace.known("chestxray14").blocks[0]) == text


def test_a_dicom_file_is_explained_like_its_pixels(checkpoint, hospital, tmp_path, capsys):
    pixels = np.asarray(Image.open(hospital.image(7)))
    path = write_dicom(tmp_path / "chest.dcm", pixels)
    numbers = []
    for image in (path, hospital.image(7)):
        capsys.readouterr()
        assert run(["explain", f"checkpoint={checkpoint}", f"image={image}", f"output={tmp_path}/x.png"]) == 0
        numbers.append(capsys.readouterr().out.splitlines()[:3])
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["image=x.png"], "which model"),
        (["checkpoint=there", "image=nothere.png"], "nothere.png"),
        (["checkpoint=there", "image=broken"], "give another image"),
        (["checkpoint=nothere", "image=there"], "no checkpoint at nothere"),
        (["checkpoint=there", "image=there", "label=Gout"], "no such label"),
        (["checkpoint=there", "image=there", "block=tissue"], "block=tissue"),
        (["checkpoint=there", "image=there", "age=300"], "age=300"),
        (["checkpoint=there", "image=there", "age=57", "text=Chest."], "leave age out"),
        (["checkpoint=there", "image=there", "window=[1,0]"], "window"),
        (["checkpoint=there", "image=there", "output=x.doc"], "output=x.doc"),
        (["checkpoint=there", "image=there", "colour=red"], "colour"),
        (["checkpoint=broken", "image=there"], "not a whole safetensors file"),
        (["checkpoint=there", "image=there", "output=below a file"], "why.png: "),
        (["checkpoint=there", "image=there", "output=below a file"], "; free space or choose another output"),
    ],
)
def test_mistakes_are_one_line(checkpoint, hospital, tmp_path, capsys, arguments, message):
    (tmp_path / "broken").write_bytes(b"nothing")
    known = {"checkpoint=there": f"checkpoint={checkpoint}", "image=there": f"image={hospital.image(0)}",
             "checkpoint=broken": f"checkpoint={tmp_path}/broken",
             "output=below a file": f"output={tmp_path}/broken/why.png",
             "image=broken": f"image={tmp_path}/broken"}  # fmt: skip
    capsys.readouterr()
    assert run(["explain", *(known.get(argument, argument) for argument in arguments)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0] and "on_bad_image" not in lines[0]
    assert "output.root" not in lines[0], "explain has no such key"
