import gzip
from pathlib import Path

import numpy as np
import pytest

from medvlmoe.command_line import run
from medvlmoe.data.check.counts import PartCounts, SiteCounts
from medvlmoe.data.check.differences import beside, differences
from medvlmoe.data.check.published import published_counts
from medvlmoe.data.check.site import SiteCheck, check_site
from medvlmoe.data.command import data
from medvlmoe.data.config import DatasetConfig
from medvlmoe.errors import ConfigError

REAL = Path(__file__).resolve().parents[4].parent / "shared" / "data" / "chestxray14"


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data at {REAL}")
@pytest.mark.parametrize("split", ["official", "patient"])
def test_the_official_chestxray14_tables_are_as_published(split):
    """All of 112,120 rows; of the images only 1,000 are there, and that is the one difference."""
    check = check_site("nih", DatasetConfig(kind="chestxray14", root=str(REAL), split=split), None)
    assert check.problems.found == []
    assert check.published == published_counts(DatasetConfig(kind="chestxray14", root=""), "v2020")
    (only,) = differences(check)
    assert only.startswith("images on disk: 1,000 of 112,120, the first missing is 0000")
    assert check.on_disk == {"train_val": 847, "test": 153, "all": 1000}
    assert len(check.missing) == 111_120
    assert check.found.facts == {"views PA": 67_310, "views AP": 44_810, "rows of age 0": 14, "ages read as unknown": 0}


def check_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = data(["check", *arguments])
    return code, capsys.readouterr().out


def test_phantoms_are_whole_and_nothing_is_published_about_them(phantom_root, capsys):
    code, out = check_command(capsys, "data=phantom", f"data.root={phantom_root}", "images=true")
    assert code == 0
    for site in ("chestxray14", "chexpert", "mimic_cxr", "pathmnist", "retinamnist"):
        assert f"{site}: whole; nothing is published to compare it with" in out
    assert "≠" not in out


def test_a_small_folder_in_an_official_layout_differs_in_every_count(make_nih, capsys, tmp_path):
    root = make_nih().root
    report = tmp_path / "report.txt"
    code, out = check_command(capsys, f"data.sites={{nih:{{kind:chestxray14,root:'{root}'}}}}", f"report={report}")
    assert code == 4
    assert "differs train_val: images: 48 ≠ 86,524" in out
    assert "differs all: Mass positive: 20 ≠ 5,782" in out
    assert "differs views PA: 60 ≠ 67,310" in out
    lines = report.read_text().splitlines()
    assert len(lines) == len(differences(check_site("nih", make_nih(), None)))
    assert "nih: differs: test: patients: 6 ≠ 2,797" in lines


def test_index_files_alone(make_nih, capsys):
    code, out = check_command(capsys, f"data.sites={{nih:{{kind:chestxray14,root:'{make_nih(images=False).root}'}}}}")
    assert code == 4
    assert "images on disk: 0 of 60, the first missing is 00000001_000.png" in out


def test_every_malformed_row_of_a_benchmark_is_named(make_nih, tmp_path, capsys):
    config = make_nih(["No Finding", "Mass", "Rash", "Mass|Rash"])
    path = tmp_path / "Data_Entry_2017_v2020.csv"
    lines = path.read_text().splitlines()
    lines[9] = lines[9].rpartition(",")[0]
    path.write_text("\n".join([*lines, lines[1]]))
    report = tmp_path / "report.txt"
    code, out = check_command(
        capsys, f"data.sites={{nih:{{kind:chestxray14,root:'{config.root}'}}}}", f"report={report}"
    )
    assert code == 4
    assert "line 10: 10 cells below a header of 11" in out
    written = [line for line in report.read_text().splitlines() if "malformed" in line]
    named = {int(line.split(" line ")[1].partition(":")[0]) for line in written if "Data_Entry" in line}
    assert named == {10, 62, *range(4, 62, 4), *range(5, 62, 4)}  # the row's own fault, the repeated one, all rashes
    assert any("train_val_list.txt line 9: 00000005_000.png is not in the table" in line for line in written)


def test_a_patient_in_two_splits_is_named(make_nih, tmp_path):
    config = make_nih()
    moved = (tmp_path / "test_list.txt").read_text().split()[0]
    (tmp_path / "test_list.txt").write_text((tmp_path / "test_list.txt").read_text().replace(moved, ""))
    with open(tmp_path / "train_val_list.txt", "a") as file:
        file.write(f"\n{moved}")
    (problem,) = check_site("nih", config, None).problems.found
    assert problem.text == "patient 25 is in more than one split: test, train"


def test_images_that_cannot_be_decoded_are_all_named(make_nih, tmp_path, capsys):
    config = make_nih()
    for name in ("00000003_000.png", "00000009_000.png"):
        (tmp_path / "images_001" / "images" / name).write_bytes(b"no image")
    site = f"data.sites={{nih:{{kind:chestxray14,root:'{config.root}'}}}}"
    assert "malformed rows or files: 0" in check_command(capsys, site)[1]
    out = check_command(capsys, site, "images=true")[1]
    assert "00000003_000.png: unreadable image" in out
    assert "00000009_000.png: unreadable image" in out
    assert "malformed rows or files: 2" in out


def test_a_hospitals_table_is_counted_and_every_row_looked_at(make_manifest, manifest_rows, tmp_path, capsys):
    rows = manifest_rows()
    site = f"data.sites={{north:{{kind:manifest,root:'{make_manifest(rows).root}'}}}}"
    code, out = check_command(capsys, site)
    assert code == 0
    assert "north: whole" in out
    for row in (3, 30):
        rows[row]["effusion"] = "2"
    rows[4]["part"] = "later"
    rows[5]["patient"] = "P3"
    make_manifest(rows)
    for number in (10, 11):
        (tmp_path / "images" / f"{number:03d}.png").unlink()
    report = tmp_path / "report.txt"
    code, out = check_command(capsys, site, f"report={report}")
    assert code == 4
    assert "table.csv lines 5, 32: effusion is '2'" in out
    assert "table.csv line 6: part is 'later'" in out
    assert "patient P3 is in more than one split" in out
    assert "images on disk: 58 of 60" in out
    assert f"north: not on disk: {tmp_path}/table.csv line 13: images/011.png" in report.read_text().splitlines()


def test_every_site_is_looked_at_although_one_cannot_be_read(make_manifest, tmp_path, capsys):
    root = make_manifest().root
    sites = f"data.sites={{absent:{{kind:chexpert,root:'{root}/nowhere'}},north:{{kind:manifest,root:'{root}'}}}}"
    code, out = check_command(capsys, sites)
    assert code == 4
    assert "nowhere: no such folder" in out
    assert "north: whole" in out


def test_another_medmnist_file_than_the_published_one(tmp_path, capsys):
    arrays = {}
    for name, count in (("train", 30), ("val", 5), ("test", 5)):
        arrays |= {f"{name}_images": np.zeros((count, 28, 28, 3), np.uint8)}
        arrays |= {f"{name}_labels": np.arange(count)[:, None] % 9}
    np.savez_compressed(tmp_path / "pathmnist.npz", **arrays)
    code, out = check_command(capsys, f"data.sites={{p:{{kind:pathmnist,size:28,root:'{tmp_path}'}}}}", "images=true")
    assert code == 4
    assert "differs train: colorectal_tissue/adipose positive: 4 ≠ 9,366" in out
    assert "that of the published file a8b06965200029087d5bd730944a56c1" in out


def test_labels_by_study_and_lower_bounds(tmp_path, monkeypatch):
    """MIMIC labels belong to studies, and what is published of them is a lower bound."""
    header = "Pleural Effusion,Edema,Atelectasis,Cardiomegaly,Consolidation,Enlarged Cardiomediastinum,Fracture," \
             "Lung Lesion,Lung Opacity,No Finding,Pleural Other,Pneumonia,Pneumothorax,Support Devices"  # fmt: skip
    tables = {
        "split": "dicom_id,study_id,subject_id,split\na,1,10,train\nb,1,10,train\nc,2,11,test\n",
        "metadata": "dicom_id,ViewPosition\na,PA\nb,LATERAL\nc,AP\n",
        "chexpert": f"subject_id,study_id,{header}\n10,1,1.0,-1.0{',' * 12}\n11,2,1.0,0.0{',' * 12}\n",
    }
    for name, text in tables.items():
        (tmp_path / f"mimic-cxr-2.0.0-{name}.csv.gz").write_bytes(gzip.compress(text.encode()))
    check = check_site("mimic", DatasetConfig(kind="mimic_cxr", root=str(tmp_path)), None)
    train = check.found.parts["train"]
    assert (train.images, train.studies, train.patients) == (2, 1, 1)
    assert train.labels["positive"]["Pleural Effusion"] == train.labels["uncertain"]["Edema"] == 1
    assert "train: Pleural Effusion positive studies: 1 < 51,680" in differences(check)
    check.published = SiteCounts(parts={"train": PartCounts(labels={"positive": {"Edema": 0}}, at_least=True)})
    check.missing = []
    assert differences(check) == []


def test_a_missing_part_is_a_difference_unless_it_is_a_separate_download():
    published = SiteCounts(parts={"train": PartCounts(images=5), "test": PartCounts(images=3, separate=True)})
    check = SiteCheck(name="a", root=Path("a"), published=published)
    assert differences(check) == ["train: the part is not there; published are 5 images"]


def test_a_count_beside_the_published_one():
    assert [beside(7, 7), beside(7000, 8), beside(7, None), beside(None, 3)] == ["7 = 7", "7,000 ≠ 8", "7", "-"]
    assert [beside(9, 8, at_least=True), beside(7, 8, at_least=True)] == ["9 ≥ 8", "7 < 8"]


def test_the_benchmarks_and_ones_own_file(make_manifest, tmp_path, capsys):
    code, out = check_command(capsys, "data=benchmarks", f"data.root={tmp_path}")
    assert code == 4
    assert out.count("no such folder") == 5
    root = make_manifest().root
    (tmp_path / "hospitals.yaml").write_text(f"sites: {{north: {{kind: manifest, root: '{root}'}}}}")
    assert check_command(capsys, f"data={tmp_path}/hospitals.yaml", "images=true")[0] == 0


def test_mistakes_on_the_command_line(capsys):
    with pytest.raises(ConfigError, match="medvlmoe data check data=benchmarks"):
        data(["chekc"])
    with pytest.raises(ConfigError, match="no sites: add data=benchmarks"):
        data(["check"])
    with pytest.raises(ConfigError, match="unknown configuration key 'image'"):
        data(["check", "image=true"])
    assert data(["check", "--help"]) == 0
    assert "report: null" in capsys.readouterr().out


def test_it_is_a_command(capsys):
    assert run(["data"]) == 2
    assert "medvlmoe data: say what to do" in capsys.readouterr().err
