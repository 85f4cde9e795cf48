"""``medvlmoe supernode site.yaml``: this hospital's SuperNode, started as its own configuration says."""

import os
import sys
from pathlib import Path

from client.config import ConnectionConfig, SiteConfig, read_site_config
from client.launcher.programs import write_programs
from medvlmoe.errors import ConfigError

_USAGE = """medvlmoe supernode site.yaml
Connect this hospital to its federation. The process becomes Flower's SuperNode and runs until it ends."""


def supernode(arguments: list[str]) -> int:
    """Become this site's SuperNode (:mod:`client.launcher.supernode`); comes back only with a mistake or for help.

    Raises:
        ConfigError: the file or a file that it names is missing or unfit.
    """
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(_USAGE)
        return 0 if "--help" in arguments or "-h" in arguments else 2
    path = Path(arguments[0]).absolute()
    site = read_site_config(path)
    command = supernode_command(site, path)
    environment = {**os.environ, "PATH": str(write_programs(Path(site.folder) / "programs"))}
    os.chdir(path.parent)
    os.execve(command[0], command, environment)


def supernode_command(site: SiteConfig, path: Path) -> list[str]:
    """The command line of this site's SuperNode, to be run in the folder of ``site.yaml``.

    Raises:
        ConfigError: ``server`` is not set, a file is missing, or others may read the private key.
    """
    server = site.server
    if server is None:
        raise ConfigError(f"{path}: set server.address, server.root_certificates and server.key")
    _refuse_unfit_files(path, server)
    command = [
        sys.executable, "-P", "-m", "client.launcher.supernode",
        "--superlink", server.address,
        "--root-certificates", server.root_certificates,
        "--auth-supernode-private-key", server.key,
        "--port", str(server.runtime_port),
        "--node-config", f'site-config="{path.name}"',
    ]  # fmt: skip
    if server.health_address is not None:
        command += ["--health-server-address", server.health_address]
    return command


def _refuse_unfit_files(path: Path, server: ConnectionConfig) -> None:
    if '"' in path.name:
        raise ConfigError(f"{path}: Flower cannot be told a file name with quotes; rename it to site.yaml")
    for key in ("root_certificates", "key"):
        file = Path(getattr(server, key))
        if not file.is_file():
            raise ConfigError(f"{path}: server.{key} is {file}, which is not there; put the file of your kit there")
    mode = Path(server.key).stat().st_mode & 0o077
    if mode:
        raise ConfigError(f"{server.key} may be read by other accounts; chmod 600 it")
