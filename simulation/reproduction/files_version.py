"""The version of the files that a run starts from: weights and tokenizers by size and time of change."""

import hashlib
from pathlib import Path

from strategies.run_config import RunConfig

UPCYCLE_FROM = "model.moe.upcycle_from"


def files_version(config: RunConfig) -> dict[str, str]:
    """Digest by key of the configuration, of those that name a file or folder which is there.

    A name of a model hub or of pre-trained weights of a library is no file: it counts as the name that it is.
    """
    named = {
        "model.vision.weights": config.model.vision.weights,
        "model.text.weights": config.model.text.weights,
        "model.text.tokenizer": config.model.text.tokenizer,
        UPCYCLE_FROM: config.model.moe.upcycle_from,
        "baseline.image.weights": config.baseline.image.weights,
        "baseline.text.weights": config.baseline.text.weights,
        "baseline.text.tokenizer": config.baseline.text.tokenizer,
    }
    paths = {key: Path(name).expanduser() for key, name in named.items() if name is not None}
    return {key: _digest(path) for key, path in paths.items() if path.exists()}


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            found = file.stat()
            digest.update(f"{file.relative_to(path)} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()
