"""What the two apps import when Flower starts their process: nothing that only some runs need, and nothing noisy."""

import subprocess
import sys

import pytest

ONLY_SOME_RUNS = {"opacus", "sklearn", "matplotlib", "peft", "pydicom", "nibabel", "tensorboard"}


@pytest.mark.parametrize("app", ["client.app", "server.app"])
def test_an_app_imports_only_what_every_run_needs(app: str) -> None:
    program = f"import sys, logging, {app}; print(*sys.modules); assert not logging.getLogger().handlers"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not ONLY_SOME_RUNS & set(answer.stdout.split())


def test_a_server_needs_no_encoder_libraries() -> None:
    """They would take more of its memory than all else: see docs/deployment.md."""
    answer = subprocess.run(
        [sys.executable, "-c", "import sys, server.app, medvlmoe.analysis.card.write; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not {"transformers", "timm", "torchvision.ops", "torch._dynamo", "pandas"} & set(answer.stdout.split())


def test_progress_is_shown_once_even_after_a_library_has_set_up_logging() -> None:
    program = """
import logging
from medvlmoe.logs import show_progress
show_progress("server")
show_progress("server")
import medvlmoe.privacy.record_gradients  # imports Opacus
assert logging.getLogger().handlers, "Opacus no longer sets up the root logger: this test has lost its point"
logging.getLogger("server.rounds").info("round 1 of 2")
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stderr.count("round 1 of 2") == 1
