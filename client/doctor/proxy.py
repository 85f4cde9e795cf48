"""Proxy settings of the environment. Flower takes them for every connection, loopback included."""

import urllib.request

from client.doctor.finding import Findings, fail, ok, warn
from client.doctor.patient import Patient
from client.doctor.way import proxy_of

SUBJECT = "proxy"


def check_proxy(patient: Patient) -> Findings:
    """``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``."""
    proxies = urllib.request.getproxies_environment()
    used = proxy_of(patient.server.host)
    if not {"http", "https", "all"} & proxies.keys():
        yield ok(SUBJECT, "none set")
        return
    # SuperNode and ClientApp talk over plain HTTP on this machine; a proxy would never find the way back.
    if {"http", "all"} & proxies.keys() and not urllib.request.proxy_bypass("127.0.0.1"):
        yield fail(
            SUBJECT,
            "SuperNode and ClientApp would talk to each other through it",
            "export NO_PROXY=127.0.0.1,localhost",
        )
    if used is None:
        yield ok(SUBJECT, f"set, but not for {patient.server.host}")
    elif used.scheme not in ("http", "https"):
        yield warn(SUBJECT, f"{used.scheme} proxies are not looked at here", "test the SuperNode itself")
    else:
        yield ok(SUBJECT, f"{used.hostname}:{used.port} on the way to {patient.server.host}")
