"""The same request gets the same reply again; any other gets a new one."""

from pathlib import Path

import pytest
import torch
from flwr.app import Array, RecordDict

from client.config import SiteConfig
from client.kept_reply import KeptReplies, KeptReply, request_key
from client.outgoing import OutgoingUpdate
from client.receipts.receipt import content_digest
from medvlmoe.errors import CheckpointError
from strategies.config import UPLOAD_CODECS
from strategies.messages import SiteUpdate, build_reply


def reply_in(codec: str, server_round: int = 1) -> KeptReply:
    generator = torch.Generator().manual_seed(server_round)
    tensors = {
        "vision.a": torch.randn(40, 30, generator=generator),
        "moe.experts.0.0.weight": torch.zeros(3, 3),
        "head.bias": torch.tensor([float(server_round)]),
        "fusion.empty": torch.zeros(0),
    }
    update = SiteUpdate(
        round=server_round, tensors=tensors, examples=10.0, routed_samples_K=torch.tensor([8.0, 2.0]),
        observed_labels_Y=torch.ones(5), metrics={"loss": 0.1 + 0.2, "auc": [1 / 3, 0.5]},
    )  # fmt: skip
    return KeptReply(OutgoingUpdate(build_reply(update, codec), {"vision": 1.5, "moe": 0.1}), "charged")


@pytest.mark.parametrize("codec", UPLOAD_CODECS)
def test_byte_for_byte(site_of, codec: str) -> None:
    replies, sent = KeptReplies(site_of(), "trial"), reply_in(codec)
    replies.stage(1, "key", sent).keep()
    found = replies.find(1, lambda: "key")
    assert found is not None and (found.update.norms, found.privacy) == (sent.update.norms, "charged")
    content, expected = found.update.content, sent.update.content
    assert content_digest(content) == content_digest(expected)
    assert list(content["arrays"]) == list(expected["arrays"])
    assert isinstance(content["arrays"]["vision.a"], Array)


def test_what_did_not_leave_is_not_found(site_of) -> None:
    replies = KeptReplies(site_of(), "trial")
    replies.stage(1, "key", reply_in("float32"))
    assert replies.find(1, lambda: "key") is None


def test_only_the_last_one_and_only_for_its_own_request(site_of) -> None:
    replies = KeptReplies(site_of(), "trial")
    for server_round in (1, 2):
        replies.stage(server_round, f"key {server_round}", reply_in("float32", server_round)).keep()
    assert replies.find(1, lambda: "key 1") is None, "a model's worth of disk for each round would be too much"
    assert replies.find(2, lambda: "another") is None
    assert replies.find(2, lambda: "key 2") is not None
    assert KeptReplies(site_of(), "another-run").find(2, lambda: "key 2") is None


def test_the_last_one_is_that_which_was_made_last_and_not_that_of_the_latest_round(site_of) -> None:
    """A server that was restored from a backup asks for an earlier round."""
    replies = KeptReplies(site_of(), "trial")
    for server_round in (5, 4):
        replies.stage(server_round, "key", reply_in("float32", server_round)).keep()
    assert replies.find(4, lambda: "key") is not None and replies.find(5, lambda: "key") is None


def test_a_damaged_file_means_training(site_of, tmp_path: Path) -> None:
    replies = KeptReplies(site_of(), "trial")
    replies.stage(1, "key", reply_in("float32")).keep()
    (file,) = (tmp_path / "site").rglob("reply-*.safetensors")
    file.write_bytes(file.read_bytes()[:200])
    assert replies.find(1, lambda: "key") is None


def test_a_full_disk_is_an_error_before_anything_leaves(site_of, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise CheckpointError("no space left")

    monkeypatch.setattr("client.state.save_tensors", full)
    with pytest.raises(CheckpointError):
        KeptReplies(site_of(), "trial").stage(1, "key", reply_in("float32"))


def test_the_key_tells_requests_sites_policies_data_and_versions_apart(
    site_of, request_of, parameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    from strategies.messages import build_request

    def content(**changes: object) -> RecordDict:
        request = request_of(**changes)
        return build_request(request.config, parameters, "float32", request.reply_codec)

    site: SiteConfig = site_of()
    moved = {**parameters, "head.weight": parameters["head.weight"] + 2**-20}
    keys = [
        request_key(site, content(), "data"),
        request_key(site, content(server_round=2), "data"),
        request_key(site, content(seed=4), "data"),
        request_key(site, content(codec="int8"), "data"),
        request_key(site, build_request(request_of().config, moved, "float32"), "data"),
        request_key(site_of(max_update_norm={"vision": 1.0}), content(), "data"),
        request_key(site, content(), "others"),
    ]
    monkeypatch.setattr("client.kept_reply.version", lambda name: "0.1.1")
    keys.append(request_key(site, content(), "data"))
    monkeypatch.undo()
    assert len(set(keys)) == len(keys)
    assert request_key(site_of(), content(), "data") == keys[0]
