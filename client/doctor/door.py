"""What the public door answers, and its clock."""

import time
from email.utils import parsedate_to_datetime

from client.doctor.finding import Findings, fail, ok, warn
from client.doctor.patient import Patient
from client.doctor.way import connect, post

# Flower refuses a signature that is from the future by more than 5 s or older than 305 s.
_AHEAD, _BEHIND = 5.0, 305.0
_UNEASY = 2.0
_FLEET = "/v1/fleet/pull-messages"
_CONTROL = "/v1/control/list-runs"


def check_door(patient: Patient) -> Findings:
    """The SuperLink behind the door answers on the hospitals' path and on no other; the clocks agree."""
    try:
        connection = connect(patient.server)
        before = time.time()
        fleet = post(connection, _FLEET)
        after = time.time()
        control = post(connection, _CONTROL)
        connection.close()
    except OSError as error:
        yield fail("superlink", f"{patient.server.address}: {error}", "tell whoever runs the federation")
        return
    if fleet.status in (400, 401, 403, 422):  # it wants a signed message; that is what a SuperLink says
        yield ok("superlink", f"answers on {_FLEET}, and only to signed requests")
    elif fleet.status in (502, 503, 504):
        yield fail("superlink", f"the door is open, nobody is behind it ({fleet.status})", "start the SuperLink")
    else:
        yield fail("superlink", f"{_FLEET} answers {fleet.status}", "is server.address the door of the federation?")
    if control.status != 404:
        yield warn(
            "door",
            f"{_CONTROL} answers {control.status}: whoever reaches this port may start runs, which is to execute code",
            "the federation needs a door that lets only /v1/fleet through (docs/deployment.md)",
        )
    if fleet.date is None:
        yield warn("clock", "the server does not tell its time", "use NTP")
        return
    yield from _check_clock(parsedate_to_datetime(fleet.date).timestamp(), before, after)


def _check_clock(server: float, before: float, after: float) -> Findings:
    """The server's time is cut to a whole second and was read between ``before`` and ``after``."""
    ahead = before - (server + 1.0)  # at least so much is this clock ahead
    behind = server - after  # at least so much is it behind
    if ahead > _AHEAD - 1.0 or behind > _BEHIND:
        by = f"{ahead:.0f} s ahead of" if ahead > 0 else f"{behind:.0f} s behind"
        yield fail("clock", f"this machine is {by} the server", "use NTP here and there; Flower allows 5 s ahead")
    elif max(ahead, behind) > _UNEASY:
        yield warn("clock", f"this machine differs by {max(ahead, behind):.0f} s from the server", "use NTP")
    else:
        yield ok("clock", f"within {_UNEASY:.0f} s of the server's")
