"""Shares, files and collection."""

import dataclasses

import numpy as np
import pytest
import torch

from medvlmoe.analysis.routing import RoutingTable, collect_routing, label_shares, site_shares
from medvlmoe.analysis.routing.collect import expert_weights
from medvlmoe.configuration import compose
from medvlmoe.data import DatasetConfig, LabelSpace, build_dataset, load_tokenizer, site_label_space
from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.files import save_tensors
from medvlmoe.model import build_model
from medvlmoe.model.moe import RoutingDecision
from strategies.run_config import RunConfig


def top_two(generator, label, site):
    return [label, (label + 1) % 4]


def test_shares_equal_a_plain_loop(make_table):
    table = make_table(top_two)
    for found, member in (
        (label_shares(table), lambda row, place: table.labels_NY[row, place] == 1),
        (site_shares(table), lambda row, place: table.site_N[row] == place),
    ):
        for place in range(len(found.names)):
            rows = [row for row in range(len(table)) if member(row, place)]
            for expert in range(table.experts):
                weights = [table.weight_NK[row, expert] for row in rows]
                assert found.weight_GK[place, expert] == pytest.approx(sum(weights) / len(rows))
                assert found.samples_GK[place, expert] == pytest.approx(sum(w > 0 for w in weights) / len(rows))
            assert found.count_G[place] == len(rows)
            assert found.patient_count_G[place] == len({table.patient_N[row] for row in rows})


def test_a_label_without_positives_has_no_row(make_table):
    table = make_table(top_two)
    labels_NY = table.labels_NY.copy()
    labels_NY[:, 1] = np.nan
    assert label_shares(dataclasses.replace(table, labels_NY=labels_NY)).names == ("label 0", "label 2", "label 3")


def test_a_saved_table_is_read_back(make_table, tmp_path):
    table = dataclasses.replace(make_table(top_two), stamps=("PHANTOM",))
    table.save(tmp_path / "routing.safetensors")
    again = RoutingTable.read(tmp_path / "routing.safetensors")
    for field in dataclasses.fields(table):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(table, field.name))


def test_another_file_is_refused(tmp_path):
    save_tensors(tmp_path / "model.safetensors", {"weight": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="not a routing table"):
        RoutingTable.read(tmp_path / "model.safetensors")


def test_weights_that_do_not_sum_to_one_are_refused(make_table):
    table = make_table(top_two)
    with pytest.raises(ConfigError, match="sum to 1"):
        dataclasses.replace(table, weight_NK=table.weight_NK * 0.5)


def test_expert_weights_of_tokens_are_the_mean_over_a_sample():
    routing = RoutingDecision(
        probabilities_BK=torch.zeros(4, 3),
        expert_index_BJ=torch.tensor([[0, 1], [1, 2], [2, 0], [2, 1]]),
        expert_weight_BJ=torch.tensor([[0.75, 0.25], [0.5, 0.5], [0.3, 0.1], [0.2, 0.2]]),  # two not normalised
    )
    expected = torch.tensor([[0.375, 0.375, 0.25], [0.125, 0.25, 0.625]], dtype=torch.float64)
    torch.testing.assert_close(expert_weights(routing, samples=2), expected)


@pytest.mark.parametrize("unit", ["sample", "token"])
def test_routing_of_a_model_equals_its_forward_pass(phantom_root, tmp_path, unit):
    config = compose(RunConfig, ["model=tiny", f"model.moe.unit={unit}"]).model
    sites = {
        name: DatasetConfig(kind=name, root=root, validation_fraction=0.2)
        for name, root in (("chestxray14", "chestxray14"), ("retinamnist", "medmnist"))
    }
    space = LabelSpace.union(site_label_space(site, phantom_root) for site in sites.values())
    datasets = {
        name: build_dataset(
            site,
            "test",
            label_space=space,
            image_size=32,
            tokenizer=load_tokenizer("byte"),
            max_tokens=64,
            cache=tmp_path,
            data_root=phantom_root,
        )
        for name, site in sites.items()
    }
    model = build_model(config, len(space), seed=0)
    model.train()
    table = collect_routing(model, datasets, batch_size=5, stamps=["PHANTOM"])
    assert model.training  # as before
    assert len(table) == sum(map(len, datasets.values()))
    assert (table.weight_NK > 0).sum(axis=1).min() >= 2
    model.eval()
    row = len(datasets["chestxray14"]) + 1
    batch = datasets["retinamnist"][1]
    with torch.inference_mode():
        output = model(batch.image_BCHW, batch.input_ids_BL, batch.attention_mask_BL)
    np.testing.assert_allclose(table.weight_NK[row], expert_weights(output.routing, 1)[0], atol=1e-5)
    np.testing.assert_allclose(table.gate_N2[row], output.gate_B2[0], atol=1e-5)
    np.testing.assert_array_equal(table.labels_NY[row], batch.labels_BY[0])
    assert table.sites[table.site_N[row]] == "retinamnist"
    patients = [patient for dataset in datasets.values() for patient in dataset.patient_ids]
    assert len(set(table.patient_N)) == len(set(patients))
