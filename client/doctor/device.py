"""The device that the site trains on."""

import torch

from client.doctor.finding import Findings, fail, ok, warn
from client.doctor.patient import Patient
from medvlmoe.errors import ConfigError
from medvlmoe.training.device import resolve_device


def check_device(patient: Patient) -> Findings:
    """``device`` of ``site.yaml``."""
    try:
        device = resolve_device(patient.site.device)
    except ConfigError as error:
        yield fail("device", str(error), "mend device: in site.yaml, or the driver")
        return
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        yield ok("device", f"{torch.cuda.get_device_name(device)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
    elif patient.site.device == "auto":
        yield warn("device", "no GPU found: the site trains on the CPU", "set device: cpu if that is what you want")
    else:
        yield ok("device", str(device))
