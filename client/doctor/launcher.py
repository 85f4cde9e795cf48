"""Whether the site's own launcher works with the Flower that is installed."""

from importlib.metadata import version

from client.doctor.finding import Findings, fail, ok
from client.doctor.patient import Patient
from client.launcher.clientapp import missing_in_flower
from strategies import flower_app


def check_launcher(patient: Patient) -> Findings:
    """Versions, and the hash of the bundle that belongs to this version."""
    missing = missing_in_flower()
    flower, own = version("flwr"), version("medvlmoe")
    if missing is not None:
        yield fail("software", f"medvlmoe {own} cannot start ClientApps of flwr {flower} (no {missing})", "flwr 1.41")
    else:
        yield ok("software", f"medvlmoe {own}, flwr {flower}, bundle {flower_app.fab_hash()}")
