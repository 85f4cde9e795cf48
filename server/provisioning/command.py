"""``medvlmoe provision`` and ``medvlmoe register``."""

from pathlib import Path

from medvlmoe.errors import ConfigError
from server.provisioning.config import ProvisionConfig, read_provision_config
from server.provisioning.kits import write_kits

_PROVISION_USAGE = """medvlmoe provision federation.yaml [key=value ...]
Write a start-up kit for the server and for each hospital. Run again after a change: keys are kept.
Keys:"""
_REGISTER_USAGE = """medvlmoe register FEDERATION FOLDER
Make the running SuperLink's list of hospitals that of FOLDER/*.pub. Needs FLWR_HOME (environment.sh of the kit)."""


def provision(arguments: list[str]) -> int:
    """Write or update the kits that ``federation.yaml`` describes; returns the exit code.

    Raises:
        ConfigError: see :func:`server.provisioning.kits.write_kits`.
    """
    if not arguments or any(argument in ("-h", "--help") for argument in arguments):
        print(f"{_PROVISION_USAGE}\n{(ProvisionConfig.__doc__ or '').partition('Attributes:')[2].rstrip()}")
        return 0 if arguments else 2
    config = read_provision_config(Path(arguments[0]), arguments[1:])
    notes = write_kits(config)
    print(f"{config.output}/authority    the certificate authority: keep ca.key offline")
    print(f"{config.output}/server       for the server, {config.public_address}")
    for hospital in config.hospitals:
        own = "without private key: it has its own" if hospital.public_key else "with its private key: over a safe way"
        print(f"{config.output}/hospitals/{hospital.name}    for {hospital.name}, {own}")
    print("\n".join(notes))
    return 0


def register(arguments: list[str]) -> int:
    """Register the hospitals of a folder of public keys with the running SuperLink; returns the exit code.

    Raises:
        ConfigError: no such connection or folder, or the SuperLink does not answer.
    """
    from server.provisioning.registration import synchronise  # Flower's client takes a second to import

    if len(arguments) != 2 or arguments[0].startswith("-"):
        print(_REGISTER_USAGE)
        return 0 if "--help" in arguments or "-h" in arguments else 2
    connection, folder = arguments
    if not Path(folder).is_dir():
        raise ConfigError(f"no folder {folder} with the hospitals' public keys; give that of the server's kit")
    for line in synchronise(connection, Path(folder)):
        print(line)
    return 0
