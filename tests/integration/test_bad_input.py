"""Mistakes of a user, through the command line: one clear line, exit code 2, and nothing half-written."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from medvlmoe import command_line
from medvlmoe.files import load_tensors, read_json, read_json_lines, save_tensors
from medvlmoe.run_folder import RunFolder
from medvlmoe.training import Trainer
from server.checkpoint import ServerCheckpoints

Command = Callable[..., tuple[int, str, str]]


def refused(result: tuple[int, str, str], *words: str) -> None:
    code, _, error = result
    last = error.strip().splitlines()[-1]
    assert code == 2, error
    assert last.startswith(("medvlmoe ", "medvlmoe:")) and "Traceback" not in error
    assert all(word in last for word in words), last


def no_run_folder(tmp_path: Path) -> bool:
    runs = tmp_path / "runs"
    return not runs.exists() or {entry.name for entry in runs.iterdir()} <= {"cache"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["federation.roundz=3"], ["'federation.roundz'", "did you mean 'federation.rounds'"]),
        (["data.sites.north.rooot=x"], ["did you mean 'data.sites.north.root'"]),
        (["data.sites.south.root=x"], ["unknown", "'data.sites.south'", "+data.sites.south="]),
        (["+data.sites.south={root:south}"], ["'data.sites.south.kind'", "needed"]),
        (["+data.sites.south={kind:manifest,root:süd}"], ["süd", "single quotes"]),
        (["+data.sites.south={kind:manifest,root:nowhere}"], ["site south", "nowhere: no such folder"]),
        (["model=giant"], ["no model 'giant'", "paper, paper_lora, small, tiny"]),
        (["data=none"], ["no sites", "docs/manifest.md"]),
        (["data=nowhere.yaml"], ["nowhere.yaml", "No such file"]),
        (["federation.rounds"], ["'federation.rounds'", "key=value"]),
        (["device=cuda:99"], ["cuda:99"]),
        (["training.precision=float16", "device=cpu"], ["float16", "CUDA"]),
        (["model.vision.backbone=nonsense"], ["model.vision.backbone=nonsense"]),
        (["model.vision.backbone=nonsense", "mode=centralized"], ["model.vision.backbone=nonsense"]),
        (["model.vision.image_size=3"], ["image_size=3"]),
        (["model.vision.weights=/no/such.safetensors", "mode=local"], ["/no/such.safetensors"]),
        (["simulation.yardstick=nonsense", "compare=[yardstick]"], ["nonsense"]),
        (["federation.sites=7"], ["federation.sites=7", "data.sites has 1"]),
        (["data.sites.north.manifest=other.yaml"], ["site north", "other.yaml"]),
    ],
)
def test_a_mistake_in_the_configuration(
    hospital, medvlmoe: Command, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    # `data=none` stands before the site in the command, so that here it takes the site away again.
    alone = arguments[0].startswith("data=")
    refused(medvlmoe("simulate", *arguments, sites=not alone), *words)
    assert no_run_folder(tmp_path)


def test_a_site_name_may_not_leave_the_run_folder(hospital, medvlmoe: Command, tmp_path: Path) -> None:
    own = tmp_path / "sites.yaml"
    own.write_text("sites:\n  ../../north: {kind: manifest, root: north, manifest: site.yaml}\n")
    refused(medvlmoe("simulate", f"data={own}", f"data.root={tmp_path}", sites=False), "'../../north'")


def test_a_missing_image_is_named_and_may_be_left_out(hospital, medvlmoe: Command, tmp_path: Path) -> None:
    hospital.image(3).unlink()
    refused(medvlmoe("simulate"), "site north", "1 of 24 images", "images/3.png", "allow_subset=true")
    assert no_run_folder(tmp_path)
    code, _, error = medvlmoe("simulate", "data.sites.north.allow_subset=true")
    assert code == 0, error
    assert read_json(tmp_path / "runs" / "run" / "summary.json")["left_out"] == {"north": {"image not on disk": 1}}


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_an_unreadable_image_is_named(hospital, medvlmoe: Command, tmp_path: Path, damage: str) -> None:
    content = hospital.image(4).read_bytes()
    hospital.image(4).write_bytes({"truncated": content[:200], "empty": b"", "text": b"no picture"}[damage])
    refused(medvlmoe("simulate"), "site north", "images/4.png: unreadable image", "on_bad_image=skip")
    assert no_run_folder(tmp_path)
    assert not list((tmp_path / "runs").rglob("*.tmp"))


def test_skipped_images_are_counted_where_the_user_sees_it(
    hospital, medvlmoe: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (0, 1, 4, 6):  # two of the train part, one of validation, one of test
        hospital.image(number).write_bytes(b"damaged")
    with caplog.at_level("INFO"):
        code, _, error = medvlmoe("simulate", "data.sites.north.on_bad_image=skip")
    assert code == 0, error
    assert "site north: left out 4 (unreadable image)" in caplog.text
    assert read_json(tmp_path / "runs" / "run" / "summary.json")["left_out"] == {"north": {"unreadable image": 4}}
    site = next(read_json_lines(tmp_path / "runs" / "run" / "rounds.jsonl"))["sites"]["north"]
    assert (site["examples"], site["left_out"]) == (10, 2), "a round counts what was missing in training"


def test_a_site_without_any_readable_image(hospital, medvlmoe: Command, tmp_path: Path) -> None:
    for path in (hospital.root / "images").iterdir():
        path.write_bytes(b"damaged")
    refused(medvlmoe("simulate", "data.sites.north.on_bad_image=skip"), "site north", "empty", "12 unreadable image")
    assert no_run_folder(tmp_path)


def test_a_needed_column_is_missing(hospital, medvlmoe: Command, tmp_path: Path) -> None:
    hospital.write_table([row[:3] for row in hospital.table()])
    refused(medvlmoe("simulate"), "site north", "studies.csv: no column 'part'", "'effusion'")
    assert no_run_folder(tmp_path)


def test_a_label_that_the_space_does_not_have(hospital, medvlmoe: Command, tmp_path: Path) -> None:
    hospital.change_manifest("Pleural Effusion", "Broken Heart")
    refused(medvlmoe("simulate"), "site north", "'Broken Heart' is not in the label space chestxray14")
    assert no_run_folder(tmp_path)


@pytest.mark.parametrize(
    ("column", "change", "words"),
    [
        ("effusion", lambda value: "maybe", ["line 2", "effusion is 'maybe'"]),
        ("part", lambda value: "trian", ["line 2", "'trian'", "train"]),
        ("part", lambda value: "train", ["the test split is empty"]),
        ("file", lambda value: "", ["line 2", "file is ''"]),
        ("patient_id", lambda value: "same", ["patient same", "more than one split", "split=patient"]),
        ("effusion", lambda value: "", ["the site is empty", "24 no known label"]),
        ("effusion", lambda value: "1", ["no label has both a positive and a negative", "nothing to learn"]),
    ],
    ids=["value", "split", "no test part", "no image", "one patient", "no label", "one class"],
)
def test_a_mistake_in_the_table(
    hospital, medvlmoe: Command, tmp_path: Path, column: str, change: Callable[[str], str], words: list[str]
) -> None:
    hospital.change_column(column, change)
    refused(medvlmoe("simulate"), "site north", *words)
    assert no_run_folder(tmp_path)


def test_an_empty_table(hospital, medvlmoe: Command, tmp_path: Path) -> None:
    hospital.write_table(hospital.table()[:1])
    refused(medvlmoe("simulate"), "site north", "the site is empty")
    (hospital.root / "studies.csv").write_text("")
    refused(medvlmoe("simulate"), "studies.csv: the table is empty")
    (hospital.root / "studies.csv").unlink()
    refused(medvlmoe("simulate"), "studies.csv: no such file")
    assert no_run_folder(tmp_path)


def test_one_class_among_classes(hospital, medvlmoe: Command) -> None:
    hospital.change_manifest("task: multilabel", "task: multiclass")
    hospital.change_manifest("label_space: chestxray14", "label_space: fluid")
    hospital.change_manifest("labels: {effusion: Pleural Effusion}", "class: effusion\nclasses: {0: dry, 1: wet}")
    hospital.change_column("effusion", lambda value: "1")
    refused(medvlmoe("simulate"), "site north", "fluid/wet", "nothing to learn")


def test_another_encoding_must_be_declared(hospital, medvlmoe: Command) -> None:
    hospital.change_column("patient_id", lambda value: f"Müller {value}", encoding="cp1252")
    refused(medvlmoe("simulate"), "studies.csv: not UTF-8", "line 2", "'encoding'", "site.yaml")
    hospital.change_manifest("table:", "encoding: cp1252\ntable:")
    assert medvlmoe("simulate")[0] == 0


@pytest.mark.parametrize("content", ["- a list\n", "table: [\n", "", "prompt: R\xf6ntgen\n"])
def test_a_damaged_manifest(hospital, medvlmoe: Command, content: str) -> None:
    (hospital.root / "site.yaml").write_bytes(content.encode("latin-1"))
    refused(medvlmoe("simulate"), "site north", "site.yaml")


@pytest.mark.parametrize("command", ["simulate", "train"])
def test_an_output_folder_that_cannot_be_written(hospital, medvlmoe: Command, tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("in the way")
    refused(medvlmoe(command, f"output.root={tmp_path}/file"), "cannot write", "data.cache")
    cache = f"data.cache={tmp_path}/cache"
    refused(medvlmoe(command, f"output.root={tmp_path}/file", cache), "cannot write", "output.root")
    refused(medvlmoe(command, f"output.root={tmp_path}", "output.name=file", cache), "output.name")
    assert (tmp_path / "file").read_text() == "in the way"


def test_what_evaluate_cannot_use(hospital, medvlmoe: Command, tmp_path: Path) -> None:
    assert medvlmoe("simulate")[0] == 0
    run = tmp_path / "runs" / "run"
    final = run / "checkpoints" / "final.safetensors"
    assert medvlmoe("evaluate", f"checkpoint={final}")[0] == 0
    refused(medvlmoe("evaluate"), "checkpoint=")
    refused(medvlmoe("evaluate", f"checkpoint={tmp_path}/none.safetensors"), "no checkpoint at", "none.safetensors")
    refused(medvlmoe("evaluate", f"checkpoint={run}"), str(run))
    refused(medvlmoe("evaluate", f"checkpoint={run}/config.json"), "config.json")
    optimizer = next((run / "sites").rglob("*.safetensors"))
    refused(medvlmoe("evaluate", f"checkpoint={optimizer}"), optimizer.name, "final.safetensors")
    tensors, metadata = load_tensors(final)
    other = tmp_path / "other.safetensors"
    save_tensors(other, {name: tensors[name] for name in list(tensors)[1:]}, metadata)
    refused(medvlmoe("evaluate", f"checkpoint={other}"), "other.safetensors", "tensors")
    save_tensors(other, tensors, {**metadata, "model": "{"})
    refused(medvlmoe("evaluate", f"checkpoint={other}"), "other.safetensors", "description")
    other.write_bytes(final.read_bytes()[:500])
    refused(medvlmoe("evaluate", f"checkpoint={other}"), "other.safetensors is not a whole safetensors file")
    hospital.change_manifest("label_space: chestxray14", "label_space: heart")
    hospital.change_manifest("Pleural Effusion", "Broken Heart")
    refused(medvlmoe("evaluate", f"checkpoint={final}"), "site north", "'Broken Heart'", "never saw it")


def test_a_damaged_run_folder_is_not_resumed(hospital, medvlmoe: Command, tmp_path: Path) -> None:
    assert medvlmoe("simulate")[0] == 0
    for name in ("run.json", "config.json", "rounds.jsonl", "checkpoints/state.json"):
        file = tmp_path / "runs" / "run" / name
        content = file.read_text()
        for damaged in ("[\n", "[]\n"):
            if name != "rounds.jsonl" or damaged == "[\n":
                file.write_text(damaged)
                refused(medvlmoe("simulate", "resume=true"), file.name)
        file.write_text(content)
    assert medvlmoe("simulate", "resume=true")[0] == 0
    file.write_text("[\n")
    assert medvlmoe("simulate", "output.overwrite=true")[0] == 0


def test_a_second_run_in_one_process_sees_what_changed(hospital, medvlmoe: Command) -> None:
    assert medvlmoe("simulate")[0] == 0
    hospital.image(3).write_bytes(b"damaged")
    refused(medvlmoe("simulate", "output.name=second"), "images/3.png")


def test_an_error_at_a_simulated_site_is_told_and_is_not_called_a_missing_site(
    hospital, medvlmoe: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refused(medvlmoe("simulate", "training.encoder_learning_rate=1e30", "federation.retries=0", "federation.rounds=2"),
            "not finite", "learning rate")  # fmt: skip

    def bug(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Trainer, "train_epoch", bug)
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        medvlmoe("simulate", "output.name=second", "federation.retries=0")


@pytest.mark.parametrize(
    ("owner", "method"),
    [
        (RunFolder, "record_round"),  # the disk is full between the merge of round 2 and its checkpoint
        (ServerCheckpoints, "save_state"),  # the disk is full before round 2, and its site cannot save
    ],
    ids=["server", "site"],
)
def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_goes_on(
    hospital, medvlmoe: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, method: str
) -> None:
    """A limit of the operating system on the size of files stands for the full disk: the write itself fails."""
    more = ["federation.rounds=2", "federation.retries=0", "federation.select=last"]
    assert medvlmoe("simulate", *more, "output.name=whole")[0] == 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    original, calls = getattr(owner, method), []

    def limited(*arguments: object) -> object:
        result = original(*arguments)
        calls.append(method)
        if len(calls) == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
        return result

    monkeypatch.setattr(owner, method, limited)
    try:
        result = medvlmoe("simulate", *more)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    refused(result, "cannot write", "free space")
    checkpoints = tmp_path / "runs" / "run" / "checkpoints"
    assert read_json(checkpoints / "state.json")["round"] == 1
    assert load_tensors(checkpoints / "round-00001.safetensors")[0]
    assert not list((tmp_path / "runs").rglob("*.tmp"))
    assert medvlmoe("simulate", *more, "resume=true")[0] == 0
    whole = load_tensors(tmp_path / "runs" / "whole" / "checkpoints" / "final.safetensors")[0]
    resumed = load_tensors(checkpoints / "final.safetensors")[0]
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_ctrl_c_is_130_and_resumable(hospital, medvlmoe: Command, tmp_path: Path) -> None:
    site = ["data=none", f"data.root={tmp_path}", "+data.sites.north={kind:manifest,root:north,manifest:site.yaml}"]
    endless = ["federation.rounds=100000", "training.patience=0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "medvlmoe", "simulate", "model=tiny", "training.bootstrap_resamples=10",
         "training.precision=float32", f"output.root={tmp_path}/runs", "output.name=run", *site, *endless],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    rounds, deadline = tmp_path / "runs" / "run" / "rounds.jsonl", time.monotonic() + 120
    while process.poll() is None and len(list(read_json_lines(rounds))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.strip().splitlines()[-1] == "medvlmoe simulate: interrupted" and "Traceback" not in error
    done = read_json(tmp_path / "runs" / "run" / "checkpoints" / "state.json")["round"]
    more = [f"federation.rounds={done + 1}", "training.patience=0", "resume=true"]
    assert medvlmoe("simulate", *more)[0] == 0
    assert [line["round"] for line in read_json_lines(rounds)] == list(range(1, done + 2))


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_usage(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert command_line.run(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("usage: medvlmoe COMMAND") and "simulate" in printed


@pytest.mark.parametrize("command", ["simulate", "train", "evaluate", "phantom"])
def test_help_of_a_command_lists_its_keys(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert command_line.run([command, "--help"]) == 0
    assert "seed: 0" in capsys.readouterr().out


def test_a_misspelled_command(capsys: pytest.CaptureFixture[str]) -> None:
    refused((command_line.run(["simulat"]), *capsys.readouterr()), "no command 'simulat'", "simulate")


def test_help_into_a_pipe_that_is_closed_early() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        arguments = [sys.executable, "-m", "medvlmoe", "--help"]
        finished = subprocess.run(arguments, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (141, "")
