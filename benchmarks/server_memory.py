"""Peak memory of the ServerApp by number of sites, over a real SuperLink; the sites only send the model back.

    python benchmarks/server_memory.py --sites 2 5 10
    python benchmarks/server_memory.py --sites 1 --codec bfloat16 --model model=paper

Prints a Markdown table. The model has about 200 MB (float32) if no other is named.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

APP = Path(__file__).parents[1] / "tests" / "integration" / "hostile_app"  # its sites can be honest
SCRIPTS = Path(sys.executable).parent
MODEL = ["model=tiny", "model.fusion.dim=512", "model.moe.experts=8", "model.moe.hidden_size=3072"]
# As in the start scripts of a provisioned federation.
MALLOC = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "8388608",
    "MALLOC_TRIM_THRESHOLD_": "134217728",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, nargs="+", default=[2, 5, 10])
    parser.add_argument("--codec", default="float32")
    parser.add_argument("--model", nargs="+", default=MODEL, metavar="OVERRIDE")
    parser.add_argument("--mmap-threshold", default=MALLOC["MALLOC_MMAP_THRESHOLD_"], metavar="BYTES")
    arguments = parser.parse_args()
    MALLOC["MALLOC_MMAP_THRESHOLD_"] = arguments.mmap_threshold
    print("| sites | model on the wire | ServerApp peak | without its imports | seconds a round |")
    print("|---:|---:|---:|---:|---:|", flush=True)
    idle = idle_bytes()
    for count in arguments.sites:
        model, peak, seconds = measure(count, arguments.codec, arguments.model)
        print(
            f"| {count} | {model / 1e6:.0f} MB | {peak / 1e6:.0f} MB = {peak / model:.2f}x | "
            f"{(peak - idle) / 1e6:.0f} MB = {(peak - idle) / model:.2f}x | {seconds:.0f} |",
            flush=True,
        )


def idle_bytes() -> int:
    """Memory of a process that has imported the ServerApp and built nothing."""
    code = "import server.app\nfrom medvlmoe.run_folder import peak_memory_bytes\nprint(peak_memory_bytes())"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def measure(count: int, codec: str, model_overrides: list[str]) -> tuple[int, int, float]:
    """Bytes of the model on the wire, peak bytes of the ServerApp, seconds of the second round."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder, port = Path(name), free_port()
        (folder / "config.toml").write_text(
            f'[superlink]\ndefault = "lab"\n[superlink.lab]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
        )
        environment = {
            **os.environ,
            **MALLOC,
            "FLWR_HOME": name,
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
        }

        def start(*command: str) -> None:
            process = subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
            )
            stack.callback(os.killpg, process.pid, 9)

        start("flower-superlink", "--insecure", "--port", str(port))
        wait_for(port)
        for number in range(count):
            start(
                "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}", "--port", str(free_port()),
                "--node-config", f'site="site{number:02d}" kind="honest"',
            )  # fmt: skip
        overrides = [
            *model_overrides, "data=none", f"strategy.codec={codec}", "federation.rounds=2",
            f"federation.sites={count}", f"output.root={folder}/runs", "output.name=run",
        ]  # fmt: skip
        given = f'overrides="{" ".join(overrides)}"'
        subprocess.run(["flwr", "run", str(APP), "lab", "--run-config", given], env=environment, check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
        run = folder / "runs" / "run"
        deadline = time.monotonic() + 1800
        while not (run / "summary.json").exists():
            if time.monotonic() > deadline:
                raise TimeoutError((run / "status.json").read_text() if run.exists() else "the run did not start")
            time.sleep(1)
        time.sleep(1)
        lines = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
        model = sum(lines[0]["bytes_by_group"].values())
        return model, json.loads((run / "summary.json").read_text())["peak_memory_bytes"], lines[-1]["seconds"]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError("the SuperLink did not start")


if __name__ == "__main__":
    main()
