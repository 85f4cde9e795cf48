"""The site's own ``flwr-clientapp``: Flower's program, with the installed ClientApp in the place of the run's.

Flower's own unpacks the bundle (FAB) of the run and imports the ClientApp that it names: code of the server, next to
the data. Here the bundle is only hashed, so that the policy can refuse one that the site does not know.
"""

import hashlib
import sys
from typing import Any

from flwr.app import Error
from flwr.supernode.cli.flwr_clientapp import flwr_clientapp
from flwr.supernode.runtime import run_clientapp as runtime

# The functions of Flower's module that are replaced. Should a version of Flower do without one of them, then what
# came in its place would run the server's code: better nothing runs at all.
_REPLACED = ("pull_task_input", "install_from_fab", "get_load_client_app_fn", "Error")


def main() -> None:
    """Answer the one message that the SuperNode has for this process."""
    missing = missing_in_flower()
    if missing is not None:
        sys.exit(f"this version of Flower runs ClientApps in another way (no {missing}); install flwr 1.41")
    _replace()
    flwr_clientapp()


def missing_in_flower() -> str | None:
    """A function that is to be replaced and that the installed Flower does not use; ``None`` if it uses all."""
    return next((name for name in _REPLACED if name not in runtime.run_clientapp.__code__.co_names), None)


def _replace() -> None:
    pull_task_input = runtime.pull_task_input
    fab_hash = ""

    def pull_and_hash(client: Any) -> Any:
        nonlocal fab_hash
        message, context, run, fab = pull_task_input(client)
        fab_hash = hashlib.sha256(fab.content).hexdigest()  # not the hash that the server tells
        return message, context, run, fab

    def load(fab_id: str, fab_version: str, told_hash: str) -> Any:
        # Not before: PyTorch takes seconds to import, and the SuperNode wants a sign of life first.
        from client.app import build_app, site_from_context

        return build_app(site_from_context, fab_hash=fab_hash)

    def error_without_text(code: int, reason: str | None = None) -> Error:
        return Error(code=code, reason="see the site's own log")

    vars(runtime).update(
        pull_task_input=pull_and_hash,
        install_from_fab=lambda content, skip_prompt: None,
        get_load_client_app_fn=lambda default_app_ref, app_path, multi_app: load,
        Error=error_without_text,
    )


if __name__ == "__main__":
    main()
