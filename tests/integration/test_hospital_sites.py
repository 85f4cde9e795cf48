"""Sites that a hospital brings: tables and images as they come, added on the command line or in a file of one's own."""

import importlib.resources
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from medvlmoe.command_line import run
from medvlmoe.configuration import compose
from medvlmoe.errors import ConfigError
from medvlmoe.files import read_json
from strategies.run_config import RunConfig

Command = Callable[..., tuple[int, str, str]]

PROJECT = Path(__file__).resolve().parents[2]
REAL = PROJECT.parent / "shared" / "data"
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data at {REAL}")


def summary(tmp_path: Path) -> dict:
    return read_json(tmp_path / "runs" / "run" / "summary.json")


def succeeded(result: tuple[int, str, str]) -> str:
    code, output, error = result
    assert code == 0, error
    return output


def test_two_sites_on_the_command_line(hospital, new_hospital, medvlmoe: Command, tmp_path: Path) -> None:
    new_hospital("south", seed=1).change_manifest("Pleural Effusion", "Edema")
    south = ["+data.sites.south.kind=manifest", "+data.sites.south.root=south", "+data.sites.south.manifest=site.yaml"]
    printed = succeeded(medvlmoe("simulate", *south, "compare=[local,centralized]"))
    assert set(summary(tmp_path)["sites"]) == {"north", "south"}
    assert set(summary(tmp_path)["compare"]) == {"local", "centralized"}
    assert summary(tmp_path)["left_out"] == {} and "north" in printed and "south" in printed
    assert summary(tmp_path)["data"]["north"] == {
        "patients": "told by the table", "labels": "uncertain: zeros", "split": "official", "text": "context",
        "augmentation": "none",
    }  # fmt: skip


def test_sites_in_a_file_of_ones_own(hospital, new_hospital, medvlmoe: Command, tmp_path: Path) -> None:
    new_hospital("St. Jürgen's = 2")
    own = tmp_path / "our sites=ä.yaml"
    sites = {
        "north": {"kind": "manifest", "root": "north", "manifest": "site.yaml"},
        "St. Jürgen": {"kind": "manifest", "root": "St. Jürgen's = 2", "manifest": "site.yaml", "split": "patient",
                       "validation_fraction": 0.3, "test_fraction": 0.3},
    }  # fmt: skip
    own.write_text(yaml.safe_dump({"root": str(tmp_path), "sites": sites}), encoding="utf-8")
    # a key on the command line wins over the file
    succeeded(medvlmoe("simulate", f"data={own}", "data.sites.north.split=patient", sites=False))
    assert set(summary(tmp_path)["sites"]) == {"north", "St. Jürgen"}
    assert read_json(tmp_path / "runs" / "run" / "config.json")["data"]["sites"]["north"]["split"] == "patient"


@pytest.mark.parametrize("name", ["a b", "key=value", "Klinik Süd", "it's (2), #3 [x]", "東京", "back\\slash", "$HOME"])
def test_any_folder_name_will_do(new_hospital, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    new_hospital(f"{name}/north")
    root = tmp_path / name
    arguments = ["model=tiny", "federation.rounds=1", "training.bootstrap_resamples=10", "data=none",
                 f"data.root={root}", f"output.root={root}/out put", "output.name=run",
                 "+data.sites.north={kind:manifest,root:north,manifest:site.yaml}"]  # fmt: skip
    assert run(["simulate", *arguments]) == 0, capsys.readouterr().err
    checkpoint = root / "out put" / "run" / "checkpoints" / "final.safetensors"
    assert run(["evaluate", *arguments, f"checkpoint={checkpoint}"]) == 0, capsys.readouterr().err
    assert run(["report", f"run={root}/out put/run"]) == 0


@pytest.mark.parametrize(
    ("argument", "root"),
    [
        ("data.root=/a,b", "/a,b"),
        ("data.root='/a=b'", "/a=b"),
        ("data.root=/ends with\\", "/ends with\\"),
        ("data.root=ü\\'", "ü\\'"),
        ("data.root=null", None),
    ],
)
def test_quotes_are_only_added_where_they_are_needed(argument: str, root: str | None) -> None:
    assert compose(RunConfig, [argument]).data.root == root


def test_numbers_and_lists_stay_what_they_are() -> None:
    config = compose(RunConfig, ["compare=[local,centralized]", "seed=3", "training.weight_decay=1e-3"])
    assert (config.compare, config.seed, config.training.weight_decay) == (["local", "centralized"], 3, 1e-3)


def test_every_group_may_be_a_file_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text("name: ours\nmoe: {experts: 3}\n")
    (tmp_path / "plan.yaml").write_text("defaults:\n  - override /strategy: fedavg\nfederation: {rounds: 3}\n")
    config = compose(RunConfig, [f"model={tmp_path}/model.yaml", f"experiment={tmp_path}/plan.yaml"])
    assert (config.model.name, config.model.moe.experts) == ("ours", 3)
    assert (config.strategy.name, config.federation.rounds) == ("fedavg", 3)
    (tmp_path / "model.yaml").write_text("name: ours\nmoe: {expert: 3}\n")
    with pytest.raises(ConfigError, match=r"'model\.moe\.expert'; did you mean 'model\.moe\.experts'"):
        compose(RunConfig, [f"model={tmp_path}/model.yaml"])


def test_images_of_every_mode(hospital, medvlmoe: Command, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    bytes_of = lambda *shape: random.integers(0, 255, shape, dtype=np.uint8)  # noqa: E731
    pictures = {
        "RGBA": (Image.fromarray(bytes_of(40, 30, 4), "RGBA"), "PNG"),
        "LA": (Image.fromarray(bytes_of(40, 30, 2), "LA"), "PNG"),
        "16-bit": (Image.fromarray(random.integers(0, 65535, (40, 30), dtype=np.uint16)), "PNG"),
        "CMYK": (Image.fromarray(bytes_of(40, 30, 4), "CMYK"), "JPEG"),
        "palette": (Image.fromarray(bytes_of(40, 30)).convert("P"), "GIF"),
        "1-bit": (Image.fromarray(bytes_of(40, 30)).convert("1"), "PNG"),
        "float": (Image.fromarray(random.random((40, 30), dtype=np.float32)), "TIFF"),
        "one pixel": (Image.fromarray(bytes_of(1, 1)), "PNG"),
    }
    for number, (picture, form) in enumerate(pictures.values()):
        picture.save(hospital.image(number), format=form)
    succeeded(medvlmoe("simulate"))
    assert summary(tmp_path)["left_out"] == {}


def test_a_table_as_a_spreadsheet_in_germany_writes_it(hospital, medvlmoe: Command, tmp_path: Path) -> None:
    (header, *rows) = hospital.table()
    lines = [
        ";".join(row).replace("images/", "images\\") for row in [[*header, "Ort"], *([*row, "Köln"] for row in rows)]
    ]
    (hospital.root / "studies.csv").write_bytes("\r\n".join(lines).encode("cp1252"))
    hospital.change_manifest("table:", "encoding: cp1252\ntable:")
    succeeded(medvlmoe("simulate"))
    assert summary(tmp_path)["sites"]["north"]["n"] == 6


def test_a_site_with_one_class_in_its_test_part_has_no_auc(hospital, medvlmoe: Command, tmp_path: Path) -> None:
    header, *rows = hospital.table()
    hospital.write_table([header, *([*row[:2], "1", "test"] if row[3] == "test" else row for row in rows)])
    printed = succeeded(medvlmoe("simulate"))
    site = summary(tmp_path)["sites"]["north"]
    assert site["n"] == 6 and site["auc"] is None and "undefined" in printed


def test_the_commands_of_the_manual_work(
    new_hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every ``medvlmoe`` command of docs/manifest.md, on hospitals as it describes them."""
    text = (PROJECT / "docs" / "manifest.md").read_text(encoding="utf-8")
    commands = re.findall(r"^    medvlmoe ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    assert len(commands) >= 3
    monkeypatch.chdir(tmp_path)
    for name, seed in (("north", 0), ("south", 1)):
        new_hospital(f"data/{name}", images=40, seed=seed)
        (tmp_path / "data" / name / "site.yaml").rename(tmp_path / "data" / name / "manifest.yaml")
    file = re.search(r"`hospitals\.yaml`:\n\n((?:    .*\n)+)", text)
    assert file is not None
    sites = re.sub(r"^    ", "", file[1], flags=re.MULTILINE).replace("/data", str(tmp_path / "data"))
    (tmp_path / "hospitals.yaml").write_text(sites)
    for command in commands:
        words = shlex.split(command.replace("\\\n", " ").replace("/data", str(tmp_path / "data")))
        quick = ["model=tiny", "training.bootstrap_resamples=10", "federation.rounds=1", "output.overwrite=true"]
        assert run([*words, *quick]) == 0, capsys.readouterr().err


def links(source: Path, target: Path, names: list[str]) -> None:
    target.mkdir(parents=True)
    for name in names:
        (target / name).symlink_to(source / name)


@needs_real_data
def test_another_subset_of_chestxray14(medvlmoe: Command, tmp_path: Path) -> None:
    real = REAL / "chestxray14"
    images = sorted(os.listdir(real / "images"))[5::8]
    links(real, tmp_path / "nih", ["Data_Entry_2017_v2020.csv", "train_val_list.txt", "test_list.txt"])
    links(real / "images", tmp_path / "nih" / "images_003" / "images", images)
    arguments = ["data=none", f"data.root={tmp_path}", "+data.sites.nih={kind:chestxray14,root:nih}"]
    code, _, error = medvlmoe("simulate", *arguments, sites=False)
    assert code == 2 and "site nih" in error and "images are not on disk" in error and "allow_subset=true" in error
    arguments = [*arguments, "data.sites.nih.allow_subset=true", "data.sites.nih.split=patient"]
    succeeded(medvlmoe("simulate", *arguments, sites=False))
    assert summary(tmp_path)["left_out"] == {"nih": {"image not on disk": 112_120 - len(images)}}
    assert summary(tmp_path)["sites"]["nih"]["labels_averaged"] > 0


@needs_real_data
def test_real_images_as_manifests_of_ones_own(medvlmoe: Command, tmp_path: Path) -> None:
    """The packaged manifests in the hospital's own folder, for a part of the table's rows."""
    sites = {}
    for name, step in (("covid", 3), ("idrid", 7), ("colorectal", 31)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "images").symlink_to(REAL / name / "images")
        header, *rows = (REAL / name / "manifest.csv").read_text(encoding="utf-8").splitlines(keepends=True)
        (tmp_path / name / "manifest.csv").write_text(header + "".join(rows[1::step]), encoding="utf-8")
        packaged = importlib.resources.files("configs") / "manifests" / f"{name}.yaml"
        (tmp_path / name / "site.yaml").write_text(packaged.read_text(encoding="utf-8"))
        sites[name] = {"kind": "manifest", "root": name, "manifest": "site.yaml", "split": "patient"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"sites": sites}))
    succeeded(medvlmoe("simulate", f"data={tmp_path}/own.yaml", f"data.root={tmp_path}", sites=False))
    found = summary(tmp_path)
    assert set(found["sites"]) == set(sites) and all(site["n"] > 0 for site in found["sites"].values())
    assert set(found["left_out"]) <= {"covid"}, "only covid has rows without a label"
