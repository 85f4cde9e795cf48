from concurrent.futures import ThreadPoolExecutor

import pytest

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


@pytest.mark.parametrize("augment", [True, False])
def test_a_run_may_do_without_augmentation(phantom_root, tmp_path, augment):
    overrides = [f"data.augment={augment}", f"data.root={phantom_root}", f"output.root={tmp_path}"]
    opened = open_sites(compose(RunConfig, [*overrides, "data.sites.pathmnist.augmentation=chest"]), splits=("train",))
    found = {name: dataset.notes["augmentation"] for name, dataset in opened.split("train").items()}
    assert found == (
        {
            "chestxray14": "chest",
            "chexpert": "chest",
            "mimic_cxr": "chest",
            "pathmnist": "chest",
            "retinamnist": "fundus",
        }
        if augment
        else dict.fromkeys(found, "none")
    )
