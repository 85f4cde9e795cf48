"""A site without data that answers as its node configuration says.

An ``honest`` one sends every model back as it came; the others send far more than was asked for, or something else.
"""

import numpy as np
from flwr.app import Array, ConfigRecord, Context, Message, MetricRecord
from flwr.clientapp import ClientApp

from medvlmoe.data.labels import LabelSpace
from strategies.messages import (
    SiteIntroduction,
    SiteUpdate,
    build_evaluation_reply,
    build_introduction,
    build_reply,
    read_request,
)

app = ClientApp()


@app.query()
def introduce(message: Message, context: Context) -> Message:
    name = str(context.node_config["site"])
    introduction = SiteIntroduction(name=name, label_space=LabelSpace.known("chexpert"), version="0.1.0")
    return Message(build_introduction(introduction), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    received = read_request(message.content)
    request = received.config
    experts, labels = request.model.moe.experts, len(request.label_space.labels)
    update = SiteUpdate(
        round=request.round + (context.node_config["kind"] == "another round"),
        tensors=received.tensors,  # type: ignore[arg-type]
        examples=100.0,
        routed_samples_K=[25.0] * experts,  # type: ignore[arg-type]
        observed_labels_Y=[100.0] * labels,  # type: ignore[arg-type]
        metrics={"validation_auc": 0.5},
    )
    content = build_reply(update, received.reply_codec)
    kind = context.node_config["kind"]
    if kind == "large array":  # incompressible, so that no two pieces are the same object
        content["arrays"]["head.bias"] = Array(np.random.default_rng(0).normal(size=25_000_000))
    if kind == "many arrays":
        for number in range(30):
            content["arrays"][f"more.{number}"] = Array(np.random.default_rng(number).normal(size=1_000_000))
    if kind == "large metrics":
        content["metrics"] = MetricRecord({"round": request.round, "m": list(map(float, range(6_000_000)))})
    if kind == "another shape":
        content["arrays"]["head.bias"] = Array(received.tensors["head.bias"].numpy()[None])
    if kind == "not a number":
        content["arrays"]["head.bias"] = Array(np.full(len(request.label_space), np.nan, dtype=np.float32))
    if kind == "text":
        content["metrics"] = ConfigRecord({"round": request.round, "validation_auc": "a report"})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    request = read_request(message.content).config
    return Message(build_evaluation_reply(request.round, {"test/auc": 0.5, "test/n": 10.0}), reply_to=message)
