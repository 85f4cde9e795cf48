"""The app as Flower calls it: whatever happens at a site, the server gets an answer without a word of it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

import client.answers
import client.app
from client.app import build_app
from client.config import SiteConfig
from client.receipts import ReceiptChain
from client.receipts.receipt import content_digest
from medvlmoe.data import LabelSpace
from medvlmoe.errors import CheckpointError, ConfigError, DataError
from strategies import error_codes
from strategies.messages import SiteIntroduction, SiteUpdate, build_introduction_request, read_reply

SECRET = "patient 4711, /data/jones^mary.dcm"
SPACE = LabelSpace.known("diabetic_retinopathy")


@pytest.fixture(autouse=True)
def task() -> None:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 77, 1


def message(content: RecordDict, kind: str = "train") -> Message:
    sent = Message(content, dst_node_id=5, message_type=kind)
    sent.metadata.__dict__["_message_id"] = "request"
    return sent


def context() -> Context:
    return Context(run_id=77, node_id=5, node_config={}, state=RecordDict(), run_config={})


@pytest.fixture
def ask(site_of, monkeypatch: pytest.MonkeyPatch, parameters) -> Callable[..., tuple[Message, SiteConfig]]:
    """Send a request to a site whose training only adds 1 to every parameter."""

    def train(site: SiteConfig, request, tensors, departure) -> SiteUpdate:
        send.trained += 1  # type: ignore[attr-defined]
        return SiteUpdate(
            round=request.round, tensors={n: t + 1 for n, t in tensors.items()}, examples=10.0,
            routed_samples_K=torch.ones(2), observed_labels_Y=torch.ones(5), metrics={"train_loss": 0.5},
        )  # fmt: skip

    introduction = SiteIntroduction(name="north", label_space=SPACE, version="0.1.0")
    monkeypatch.setattr(client.answers, "train", train)
    monkeypatch.setattr(client.answers, "data_digest", lambda *_: send.data)  # type: ignore[attr-defined]
    monkeypatch.setattr(client.answers, "evaluate", lambda *_: {"test/auc": 0.75})
    monkeypatch.setattr(client.answers, "introduce", lambda site: introduction)

    def send(content: RecordDict, kind: str = "train", **policy: object) -> tuple[Message, SiteConfig]:
        site = site_of(**policy)
        site.keep_reply = send.keep_reply  # type: ignore[attr-defined]
        return build_app(lambda _: site)(message(content, kind), context()), site

    send.trained, send.data, send.keep_reply = 0, "data", True  # type: ignore[attr-defined]
    return send


@pytest.fixture
def request_content(parameters) -> RecordDict:
    from medvlmoe.model import MedVLMoEConfig
    from medvlmoe.training.config import TrainingConfig
    from strategies.messages import RoundConfig, build_request

    config = RoundConfig(
        run="trial-7f", round=3, rounds=5, local_epochs=1, keep_optimizer_state=True, seed=3,
        model=MedVLMoEConfig(), label_space=SPACE, training=TrainingConfig(), splits=("test",),
    )  # fmt: skip
    return build_request(config, parameters, "float32")


def receipts(site: SiteConfig) -> list:
    return ReceiptChain(site.receipts_file).receipts()


def test_every_kind_of_reply_leaves_a_receipt(ask, request_content, parameters) -> None:
    reply, _ = ask(request_content)
    read_reply(reply.content, base=parameters, codec="float32", server_round=3, expert_count=2, label_count=5)
    ask(request_content, "evaluate")
    _, site = ask(build_introduction_request(), "query")
    training, evaluation, introduction = receipts(site)
    assert (training.kind, training.run, training.round, training.flower_run) == ("training", "trial-7f", 3, "77")
    assert training.groups["vision"].norm == pytest.approx(6**0.5)
    assert training.metrics == ["examples", "observed_labels", "routed_samples", "train_loss"]
    assert (evaluation.kind, evaluation.metrics, evaluation.groups) == ("evaluation", ["test/auc"], {})
    assert introduction.kind == "introduction"


def test_the_receipt_names_the_very_bytes(ask, request_content) -> None:
    from client.receipts.receipt import content_digest

    reply, site = ask(request_content)
    assert receipts(site)[0].sha256 == content_digest(reply.content)


def test_without_a_receipt_nothing_leaves(ask, request_content, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise CheckpointError("no space left")

    monkeypatch.setattr("client.receipts.chain.append_json_line", full)
    reply, site = ask(request_content)
    assert reply.has_error() and reply.error.code == error_codes.FILES
    assert "no space left" in Path(site.folder).with_suffix(".log").read_text()


def test_with_a_broken_chain_nothing_leaves(ask, request_content) -> None:
    _, site = ask(request_content)
    ask(request_content)
    lines = site.receipts_file.read_text().splitlines(keepends=True)
    site.receipts_file.write_text("".join(lines[1:]))
    for kind in ("train", "evaluate"):
        reply, _ = ask(request_content, kind)
        assert reply.has_error() and reply.error.code == error_codes.FILES


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        ({"runs": ["other"]}, error_codes.RUN_NOT_APPROVED),
        ({"groups": ["head"]}, error_codes.GROUP_NOT_ALLOWED),
        ({"codecs": ["int8"]}, error_codes.CODEC_NOT_ALLOWED),
        ({"max_update_norm": {"all": 0.1}}, error_codes.UPDATE_TOO_LARGE),
        ({"differential_privacy_required": True}, error_codes.NO_DIFFERENTIAL_PRIVACY),
    ],
)
def test_a_refusal_is_a_code_to_the_server_and_a_reason_at_the_site(ask, request_content, policy, code: int) -> None:
    reply, site = ask(request_content, **policy)
    assert reply.has_error() and reply.error.code == code
    assert reply.error.reason == error_codes.words_of(code)
    assert "policy." in Path(site.folder).with_suffix(".log").read_text()
    assert [(receipt.kind, receipt.code) for receipt in receipts(site)] == [("error", code)]


def test_rounds_are_counted_by_receipts(ask, request_content) -> None:
    limit = {"max_rounds_per_day": 2}
    ask.keep_reply = False
    assert [ask(request_content, **limit)[0].has_error() for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("kind", ["train", "evaluate", "query"])
def test_a_server_of_another_version_is_refused(ask, request_content, kind: str) -> None:
    content = build_introduction_request() if kind == "query" else request_content
    content["config"]["version"] = "99.0"
    reply, _ = ask(content, kind)
    assert reply.error.code == error_codes.OTHER_VERSION


@pytest.mark.parametrize("key", ["device", "data_root", "dataset", "policy", "folder", "precision", "receipts"])
def test_a_server_that_sets_a_key_of_the_site_is_refused(ask, request_content, key: str) -> None:
    decided = json.loads(request_content["config"]["round"])
    decided[key] = {"min_patients": 1}
    request_content["config"]["round"] = json.dumps(decided)
    reply, site = ask(request_content)
    assert reply.error.code == error_codes.MALFORMED_REQUEST
    assert f"'{key}'" in Path(site.folder).with_suffix(".log").read_text()


def test_what_the_site_sets_wins(monkeypatch: pytest.MonkeyPatch, site_of) -> None:
    from client.site import _training_here
    from medvlmoe.training.config import TrainingConfig

    site = site_of()
    asked = TrainingConfig(precision="bfloat16", workers=8)
    assert _training_here(site, asked) == asked
    site.precision, site.workers = "float32", 0
    assert (_training_here(site, asked).precision, _training_here(site, asked).workers) == ("float32", 0)


FAULTS = [RuntimeError, KeyError, ImportError, UnicodeError, MemoryError, RecursionError, DataError, ConfigError,
          CheckpointError, OSError]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("where", ["the work", "the site's file", "the message"])
def test_no_word_of_an_exception_leaves(
    ask, site_of, request_content, monkeypatch: pytest.MonkeyPatch, fault: type[Exception], where: str
) -> None:
    def fail(*_: object) -> None:
        raise fault(SECRET)

    if where == "the work":
        monkeypatch.setattr(client.answers, "train", fail)
        reply, _ = ask(request_content)
    elif where == "the site's file":
        reply = build_app(fail)(message(request_content), context())
    else:
        monkeypatch.setattr(client.answers, "read_request", fail)
        reply, _ = ask(request_content)
    assert reply.has_error() and reply.error.code in {*range(101, 130), 199}
    assert "4711" not in str(reply.error.reason) and "jones" not in str(reply.error)


@pytest.mark.parametrize("kind", ["train.other", "evaluate.x", "query.y"])
def test_an_action_that_does_not_exist_is_answered_with_a_code(ask, request_content, kind: str) -> None:
    """Flower itself raises here, beyond our handlers, and would send the text of its exception."""
    reply, _ = ask(request_content, kind)
    assert reply.error.code == error_codes.UNEXPECTED and reply.error.reason == "unexpected"


@pytest.mark.parametrize("content", [RecordDict(), RecordDict({"config": ConfigRecord({"version": 1})})])
@pytest.mark.parametrize("kind", ["train", "evaluate", "query"])
def test_a_hostile_request_is_answered_with_a_code(ask, content: RecordDict, kind: str) -> None:
    reply, _ = ask(content, kind)
    assert reply.has_error() and reply.error.code in (error_codes.MALFORMED_REQUEST, error_codes.OTHER_VERSION)


def test_an_error_leaves_even_where_nothing_can_be_written(ask, request_content, site_of) -> None:
    folder = Path(site_of().folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.write_text("a file where the site's folder should be")
    reply, _ = ask(request_content)
    assert reply.error.code == error_codes.FILES


def test_the_same_request_is_answered_again_without_training(ask, request_content) -> None:
    first, site = ask(request_content)
    again, _ = ask(request_content)
    assert ask.trained == 1
    assert content_digest(again.content) == content_digest(first.content)
    trained, repeated = receipts(site)
    assert (trained.kind, repeated.kind) == ("training", "repetition")
    for name in ("groups", "codec", "metrics", "sha256", "round", "run"):
        assert getattr(repeated, name) == getattr(trained, name)
    assert ReceiptChain(site.receipts_file).verify().fault is None


def test_other_data_are_trained_on_though_the_request_is_the_same(ask, request_content) -> None:
    ask(request_content)
    ask.data = "a patient has withdrawn"
    ask(request_content)
    assert ask.trained == 2


def test_a_repetition_is_no_further_round_for_the_policy(ask, request_content) -> None:
    for _ in range(3):
        reply, _ = ask(request_content, max_rounds_per_day=1)
        assert not reply.has_error()
    assert ask.trained == 1


def test_what_was_ready_and_has_not_left_leaves_as_what_it_is(
    ask, request_content, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receipt failed after the round was charged: the reply that leaves later has the receipt of a training."""

    def full(*_: object) -> None:
        raise CheckpointError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(client.app, "_write_receipt", full)
        first, site = ask(request_content, max_rounds_per_day=1)
    assert first.error.code == error_codes.FILES
    for _ in range(2):
        reply, _ = ask(request_content, max_rounds_per_day=1)
        assert not reply.has_error()
    assert ask.trained == 1
    assert [receipt.kind for receipt in receipts(site)] == ["error", "training", "repetition"]
    request_content["config"]["round"] = request_content["config"]["round"].replace('"round": 3', '"round": 4')
    reply, _ = ask(request_content, max_rounds_per_day=1)
    assert reply.error.code == error_codes.TOO_MANY_ROUNDS


def test_a_repetition_is_refused_where_the_request_would_be(ask, request_content) -> None:
    ask(request_content)
    reply, _ = ask(request_content, codecs=["bfloat16"])
    assert reply.error.code == error_codes.CODEC_NOT_ALLOWED


def test_a_site_that_keeps_no_reply_trains_again(ask, request_content) -> None:
    ask.keep_reply = False
    ask(request_content)
    _, site = ask(request_content)
    assert ask.trained == 2 and [receipt.kind for receipt in receipts(site)] == ["training", "training"]
    assert not list(Path(site.folder).rglob("reply-*"))
