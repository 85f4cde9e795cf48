"""A site that answers as its node configuration says: ``honest``, or with far more than it was asked for."""

import numpy as np
from flwr.app import Array, Context, Message, MetricRecord
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
        round=request.round,
        tensors=received.tensors,  # type: ignore[arg-type]
        examples=100.0,
        routed_samples_K=[25.0] * experts,  # type: ignore[arg-type]
        observed_labels_Y=[100.0] * labels,  # type: ignore[arg-type]
        metrics={},
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
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    request = read_request(message.content).config
    return Message(build_evaluation_reply(request.round, {"test/auc": 0.5, "test/n": 10.0}), reply_to=message)
