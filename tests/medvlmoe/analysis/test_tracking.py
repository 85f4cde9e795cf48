import json
from pathlib import Path

import pytest

from medvlmoe.analysis.tracking import write_events
from medvlmoe.errors import CheckpointError


def write_rounds(folder: Path) -> None:
    lines = [
        {"round": n, "seconds": 2.0, "validation_auc_before": None if n == 1 else 0.6, "expert_samples": [5 * n, 0],
         "sites": {"north": {"outcome": "merged", "train_loss": 1.0 / n}, "late": {"outcome": "no reply"}}}
        for n in (1, 2)
    ]  # fmt: skip
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_curves_are_those_of_the_rounds(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="extra `tracking` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_rounds(tmp_path)
    write_events(tmp_path)
    events = EventAccumulator(str(write_events(tmp_path)))  # a second call replaces the first
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train_loss/north")] == [(1, 1.0), (2, 0.5)]
    assert [(e.step, e.value) for e in events.Scalars("expert_samples/0")] == [(1, 5.0), (2, 10.0)]
    assert [e.step for e in events.Scalars("validation_auc_before")] == [2]


def test_the_stamps_of_the_sites_are_written_as_text(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="extra `tracking` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_rounds(tmp_path)
    file = tmp_path / "rounds.jsonl"
    file.write_text(file.read_text().replace('"train_loss"', '"stamp/LEAKY": 1.0, "train_loss"'))
    events = EventAccumulator(str(write_events(tmp_path)))
    events.Reload()
    (event,) = events.Tensors("stamps/text_summary")
    assert event.tensor_proto.string_val[0].startswith(b"LEAKY: ")


def test_a_folder_without_rounds_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="extra `tracking` is not installed")
    with pytest.raises(CheckpointError, match=r"rounds\.jsonl"):
        write_events(tmp_path)
