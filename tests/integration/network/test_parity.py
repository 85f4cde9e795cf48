"""The same run over the network and in one process: the same bits."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from federation_processes import Run, federation

SITES = {
    "chest": {"kind": "chestxray14", "root": "chestxray14", "validation_fraction": 0.2},
    "retina": {"kind": "retinamnist", "root": "medmnist", "size": 64},
}
RUN = ["model=tiny", "data=none", "training.precision=float32", "training.bootstrap_resamples=10",
       "federation.rounds=2", "federation.hospitals=[chest,retina]"]  # fmt: skip


@pytest.mark.long
def test_a_networked_run_equals_the_simulation_bit_for_bit(tmp_path: Path, phantom_root: Path) -> None:
    with federation(tmp_path / "network", SITES, phantom_root) as processes:
        processes.start_superlink()
        for site in SITES:
            processes.start_site(site)
        processes.start_run(*RUN, f"output.root={tmp_path}", "output.name=networked")
        Run(tmp_path / "networked").await_end()
    described = [
        f"+data.sites.{name}={{{','.join(f'{k}:{v}' for k, v in site.items())}}}" for name, site in SITES.items()
    ]
    command = [sys.executable, "-m", "medvlmoe", "simulate", *RUN, *described, f"data.root={phantom_root}",
               f"output.root={tmp_path}", "output.name=simulated"]  # fmt: skip
    subprocess.run(command, env=processes.environment, check=True, timeout=300)
    networked, simulated = Run(tmp_path / "networked"), Run(tmp_path / "simulated")
    a, b = networked.final(), simulated.final()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    for ours, theirs in zip(networked.rounds(), simulated.rounds(), strict=True):
        for site in SITES:
            assert ours["sites"][site]["train_loss"] == theirs["sites"][site]["train_loss"]
