"""Which runs a table or figure has."""

from dataclasses import replace
from pathlib import Path

import pytest

from medvlmoe.configuration import compose
from medvlmoe.errors import ConfigError, DataError
from medvlmoe.model.ablations import ABLATIONS, FULL
from simulation.reproduction.config import ReproductionConfig
from simulation.reproduction.plan import make_plan, pairs_of


def configured(root: Path, *arguments: str) -> ReproductionConfig:
    return compose(ReproductionConfig, ["preset=tiny", f"data.root={root}", *arguments], config_name="reproduce")


def test_seeds_are_a_number_or_a_list(tmp_path: Path) -> None:
    assert configured(tmp_path, "seeds=2").seed_list() == [0, 1]
    assert configured(tmp_path, "seeds=[4,1]").seed_list() == [4, 1]
    for wrong in ("seeds=0", "seeds=[1,1]", "seeds=[a]", "seeds=[]", "seeds=1.5"):
        with pytest.raises(ConfigError, match="seeds"):
            configured(tmp_path, wrong)


@pytest.mark.parametrize("argument", ["mode=local", "compare=[local]", "resume=true", "checkpoint=x", "seed=3"])
def test_what_a_cell_sets_cannot_be_given(argument: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a reproduction sets it for each cell"):
        configured(tmp_path, argument)


def test_presets_are_the_protocols(tmp_path: Path) -> None:
    paper = compose(ReproductionConfig, ["preset=paper", "data=benchmarks"], config_name="reproduce")
    training = paper.training
    assert (training.encoder_learning_rate, training.head_learning_rate, training.weight_decay) == (3e-5, 1e-4, 0.1)
    assert (training.epochs, training.warmup_epochs, training.batch_size, training.patience) == (100, 10, 32, 15)
    assert paper.seed_list() == [0, 1, 2] and paper.protocol == "paper"
    assert paper.model.moe.experts == 8 and paper.model.vision.backbone == "vit_large_patch14_clip_224"
    assert configured(tmp_path).protocol == "tiny"
    assert compose(ReproductionConfig, ["preset=small"], config_name="reproduce").model.name == "small"


def test_table_2_is_the_ablations_on_the_radiographs(phantom_root: Path) -> None:
    plan = make_plan(configured(phantom_root, "seeds=1"), ["table2"])
    assert {dataset for dataset, _ in plan.pairs} == {"chestxray14"}
    assert [model for _, model in plan.pairs] == [FULL, *ABLATIONS]
    same = {model for (_, model, _), cell in plan.entries.items() if cell.model == FULL}
    assert same == {FULL, "experts_8", "balance_0.01"}, "these change nothing, and are not run again"
    assert len(plan.cells) == len(plan.entries) - 2
    by_model = {cell.model: cell for cell in plan.cells}
    assert by_model["upcycled"].needs == by_model["single_ffn"].identity
    assert by_model["upcycled"].config.model.moe.upcycle_from == str(by_model["single_ffn"].weights)
    assert by_model["single_ffn"].keeps_weights and not by_model["dense"].keeps_weights


def test_what_is_needed_comes_along(phantom_root: Path) -> None:
    plan = make_plan(configured(phantom_root, "seeds=1", "models=[upcycled]"), ["table2"])
    assert [cell.model for cell in plan.cells] == [FULL, "single_ffn", "upcycled"]
    assert ("chestxray14", "single_ffn") not in plan.pairs


def test_a_model_is_in_the_table_that_it_belongs_to(phantom_root: Path) -> None:
    config = configured(phantom_root, "models=[single_ffn,gloria]", "datasets=[retinamnist]")
    assert pairs_of(config, "table1") == [("retinamnist", FULL), ("retinamnist", "gloria_shared")]
    assert pairs_of(config, "table2") == [("retinamnist", FULL), ("retinamnist", "single_ffn")]


def test_a_seed_of_everything_comes_before_the_next_seed(phantom_root: Path) -> None:
    plan = make_plan(configured(phantom_root, "seeds=[5,2]", "datasets=[pathmnist,retinamnist]"), ["figure2"])
    seeds = [cell.seed for cell in plan.cells]
    assert seeds == sorted(seeds, reverse=True) and set(seeds) == {5, 2}


def test_figure_3_is_a_joint_run_and_its_control(phantom_root: Path) -> None:
    joint, control = make_plan(configured(phantom_root, "seeds=1"), ["figure3"]).cells
    assert joint.config.mode == control.config.mode == "centralized" and joint.keeps_weights
    assert {site.prompt for site in joint.config.data.sites.values()} == {None}
    prompts = {(site.prompt, site.text) for site in control.config.data.sites.values()}
    assert prompts == {("Medical image", "none")}


def test_one_unreadable_data_set_costs_its_cells_only(phantom_root: Path) -> None:
    plan = make_plan(configured(phantom_root, "seeds=1", "data.sites.chexpert.root=nowhere"), ["table1", "figure3"])
    assert "no such folder" in plan.unreadable["chexpert"]
    assert {cell.dataset for cell in plan.cells} == {"chestxray14", "mimic_cxr", "pathmnist", "retinamnist"}
    with pytest.raises(DataError, match="no such folder"):
        make_plan(configured(phantom_root / "nowhere", "seeds=1"), ["table1"])


def test_names_that_are_not_there_are_refused(phantom_root: Path) -> None:
    with pytest.raises(ConfigError, match="datasets: no 'covid'"):
        pairs_of(configured(phantom_root, "datasets=[covid]"), "table1")
    with pytest.raises(ConfigError, match="models: no 'resnet'"):
        pairs_of(configured(phantom_root, "models=[resnet]"), "table1")
    with pytest.raises(ConfigError, match="no data sets"):
        pairs_of(configured(phantom_root, "data=none"), "table1")


def test_an_ablation_that_the_model_cannot_have_is_said(phantom_root: Path) -> None:
    plan = make_plan(
        configured(phantom_root, "seeds=1", "model.moe.experts=1", "model.moe.top_k=1", "models=[shared_expert]"),
        ["table2"],
    )
    assert "needs model.moe.experts of 2 or more" in plan.impossible["shared_expert"]
    assert [cell.model for cell in plan.cells] == [FULL]


def test_a_model_that_starts_from_one_that_cannot_be_is_said_too(
    phantom_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(config):
        raise ConfigError("no single FFN here")

    monkeypatch.setitem(ABLATIONS, "single_ffn", replace(ABLATIONS["single_ffn"], change=refuse))
    plan = make_plan(configured(phantom_root, "seeds=1", "models=[upcycled]"), ["table2"])
    assert plan.impossible["upcycled"] == "it starts from single_ffn: no single FFN here"


def test_another_stage_a_makes_only_the_baselines_old(phantom_root: Path) -> None:
    wanted = ["seeds=1", "datasets=[retinamnist]", "models=[convirt]"]
    plans = [
        make_plan(configured(phantom_root, *given), ["table1"], ["preset=tiny", *given])
        for given in (wanted, [*wanted, "baseline.pretraining.epochs=1"])
    ]
    first, second = ({cell.model: cell.identity for cell in plan.cells} for plan in plans)
    assert first[FULL] == second[FULL] and first["convirt_shared"] != second["convirt_shared"]
