"""Memory: what a round takes, from the size of the model."""

from pathlib import Path

from client.doctor.finding import Findings, fail, ok, warn
from client.doctor.patient import Patient
from medvlmoe.errors import ConfigError
from medvlmoe.training.device import resolve_device

# Bytes a parameter while training in float32 master weights: itself, its gradient, AdamW's two moments.
_TRAINING = 16
_ITSELF = 4
# A message is held by the SuperNode (1.9 times, measured) and by the ClientApp while it unpacks (about twice).
_MESSAGE_COPIES = 4
_PROGRAMS = 1.5e9  # Python with PyTorch, and the SuperNode


def check_memory(patient: Patient) -> Findings:
    """RAM of this machine against a round of the expected model; activations are not counted."""
    size = patient.model_size
    try:
        on_gpu = resolve_device(patient.site.device).type != "cpu"
    except ConfigError:
        on_gpu = False
    training = size.parameters * (_ITSELF if on_gpu else _TRAINING)
    wanted = training + _MESSAGE_COPIES * max(size.download_bytes, size.upload_bytes) + _PROGRAMS
    total, available = _memory()
    text = (
        f"{available / 1e9:.1f} of {total / 1e9:.1f} GB free, about {wanted / 1e9:.1f} GB wanted for "
        f"model={patient.run.model.name} ({size.parameters / 1e6:.1f} M parameters), activations not counted"
    )
    mend = "more memory, another model, frozen parts, or strategy.codec=bfloat16"
    if wanted > total:
        yield fail("memory", text, mend)
    elif wanted > available:
        yield warn("memory", text, f"end other programs; or {mend}")
    else:
        yield ok("memory", text)


def _memory() -> tuple[int, int]:
    """Bytes of RAM: all, and free for programs. A container's limit counts as all."""
    values = {}
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        values[name] = int(value.split()[0]) * 1024
    total, available = values["MemTotal"], values["MemAvailable"]
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text(encoding="ascii").strip()).isdecimal():
        total, available = min(total, int(text)), min(available, int(text))
    return total, available
