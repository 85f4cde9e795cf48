"""How long a round travels, from the speed of a few megabytes sent to the door."""

import os
import time

from client.doctor.finding import Findings, fail, ok, warn
from client.doctor.patient import Patient
from client.doctor.way import connect, post

_OBJECT_BYTES = 5 * 2**20  # Flower cuts a model into objects of this size
_OBJECTS = 3
_PUSH_OBJECT = "/v1/fleet/push-object"
_LONG_ROUND = 3600.0


def check_upload(patient: Patient) -> Findings:
    """Send objects of Flower's size, unsigned: they cross the line whole and are refused at its end.

    So the line and the door are measured, not the SuperLink's storing. Nothing as large comes back, so the download is
    taken to be as fast; training comes on top.
    """
    body = os.urandom(_OBJECT_BYTES)  # no proxy can make it smaller
    try:
        connection = connect(patient.server)
        connection.timeout = 120.0
        if connection.sock is not None:
            connection.sock.settimeout(120.0)
        started = time.monotonic()
        answers = [post(connection, _PUSH_OBJECT, body).status for _ in range(_OBJECTS)]
        seconds = time.monotonic() - started
        connection.close()
    except OSError as error:
        yield fail(
            "upload", f"{_OBJECT_BYTES >> 20} MiB did not get through: {error}", "a proxy or firewall cuts them off"
        )
        return
    if 413 in answers:
        yield fail("upload", "a body of 5 MiB is refused (413)", "the door or a proxy must let bodies of 8 MiB through")
        return
    rate = _OBJECTS * _OBJECT_BYTES / seconds
    size = patient.model_size
    travel = (size.download_bytes + size.upload_bytes) / rate
    text = (
        f"{rate / 1e6:.1f} MB/s up; a round of model={patient.run.model.name} takes {size.download_bytes / 1e6:.0f} MB "
        f"down and {size.upload_bytes / 1e6:.0f} MB up: about {_in_words(travel)} on the way, training not counted"
    )
    if travel > _LONG_ROUND:
        yield warn("upload", text, "ask for strategy.codec=bfloat16 and strategy.upload_codec=int8")
    else:
        yield ok("upload", text)


def _in_words(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
