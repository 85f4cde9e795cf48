"""Peak memory of every process of one round over the network, and how long the round's parts take.

Server and hospitals are real processes on this machine, started from provisioned kits: SuperLink, SuperExec, ServerApp,
nginx, SuperNodes, ClientApps. Run, for the paper's whole model and one hospital (after
``medvlmoe phantom root=runs/phantom images_per_site=60 'benchmarks=[chestxray14]'``):

    python benchmarks/network_round.py experiment=paper_round '~data.sites.chexpert'
"""

import contextlib
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

from medvlmoe.analysis.comparison import markdown
from medvlmoe.configuration import compose
from medvlmoe.files import read_json_lines
from simulation.local_federation import LocalFederation
from strategies.run_config import RunConfig

PROGRAMS = {
    "flower-superlink": "SuperLink",
    "superexec": "SuperExec",
    "serverapp": "ServerApp",
    "clientapp": "ClientApp",
    "supernode": "SuperNode",
    "nginx": "nginx",
}
_POLL_SECONDS = 0.5


class PeakMemory(threading.Thread):
    """Watches all processes of a folder's federation: largest resident memory by program, and of all together."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._folder = str(folder)
        self.by_program: dict[str, int] = {}
        self.together = 0
        self._end = threading.Event()

    def run(self) -> None:
        """Look twice a second."""
        while not self._end.wait(_POLL_SECONDS):
            total = 0
            for process in Path("/proc").iterdir():
                with contextlib.suppress(OSError, StopIteration):
                    if not process.name.isdigit() or not str((process / "cwd").readlink()).startswith(self._folder):
                        continue
                    command = (process / "cmdline").read_text().replace("\0", " ")
                    program = next(PROGRAMS[word] for word in PROGRAMS if word in command)
                    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
                    total += int(status["VmRSS"].split()[0]) * 1024
                    peak = int(status["VmHWM"].split()[0]) * 1024
                    self.by_program[program] = max(peak, self.by_program.get(program, 0))
            self.together = max(self.together, total)

    def stop(self) -> None:
        """Look no more."""
        self._end.set()
        self.join()


def main() -> None:
    overrides = sys.argv[1:]
    config = compose(RunConfig, overrides)
    with tempfile.TemporaryDirectory() as folder:
        memory = PeakMemory(Path(folder))
        memory.start()
        with LocalFederation(Path(folder), config.data.sites, Path(config.data.root or ".")) as federation:
            federation.start_server()
            for name in config.data.sites:
                federation.start_hospital(name)
            began = time.monotonic()
            sites = len(config.data.sites)
            federation.run([*overrides, f"federation.sites={sites}", "output.root=runs", "output.name=round"])
            seconds = time.monotonic() - began
            memory.stop()
            rounds = list(read_json_lines(federation.server_kit / "runs" / "round" / "rounds.jsonl"))
    rows = [[program, f"{peak / 2**30:.2f}"] for program, peak in sorted(memory.by_program.items())]
    print(markdown([["process", "peak GiB"], *rows, ["all at one moment", f"{memory.together / 2**30:.2f}"]]))
    print(f"{seconds:.0f} s for the run with start-up and test, {os.cpu_count()} cores; the rounds:")
    for line in rounds:
        print({name: line[name] for name in line if name != "sites"})
        for site, told in line["sites"].items():
            print(site, {name: told[name] for name in told if "seconds" in name or "bytes" in name})


if __name__ == "__main__":
    main()
