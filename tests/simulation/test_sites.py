from concurrent.futures import ThreadPoolExecutor

from medvlmoe.configuration import compose
from medvlmoe.data import decoding
from simulation.sites import open_sites
from strategies.run_config import RunConfig


def test_a_run_decodes_with_as_many_threads_as_it_says(phantom_root, tmp_path, monkeypatch):
    asked = set()

    def watched(workers):
        asked.add(workers)
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr(decoding, "ThreadPoolExecutor", watched)
    config = compose(RunConfig, ["data.workers=3", f"data.root={phantom_root}", f"output.root={tmp_path}"])
    open_sites(config, splits=("test",))
    assert asked == {3}
