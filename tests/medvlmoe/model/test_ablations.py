"""Each ablation changes what it says and nothing else; sizes as counted by hand."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from medvlmoe.data.batch import Batch
from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.files import save_tensors
from medvlmoe.model import (
    AnyMedVLMoE,
    FusionConfig,
    MedVLMoEConfig,
    MoEConfig,
    SparseMoE,
    TextConfig,
    VisionConfig,
    build_model,
    empty_model,
)
from medvlmoe.model.ablations import ABLATIONS, PAPER_ABLATIONS, ablation_named
from medvlmoe.model.costs import measure_cost, parameters_by_group
from medvlmoe.model.groups import expert_index, parameter_group

DIM, EXPERTS, LABELS, WORDS, TEXT_WIDTH = 16, 6, 5, 260, 32
FUSED = 2 * DIM
EXPERT = 2 * (FUSED * FUSED + FUSED)

FULL = MedVLMoEConfig(
    name="test",
    vision=VisionConfig(backbone="test_resnet", image_size=32, output_stride=8),
    text=TextConfig(
        tokenizer="byte", max_tokens=32, vocabulary_size=WORDS, hidden_size=TEXT_WIDTH, layers=1, heads=2,
        feed_forward_size=32, max_positions=64, dropout=0.0,
    ),
    fusion=FusionConfig(dim=DIM, max_text_positions=32, residual=True),
    moe=MoEConfig(experts=EXPERTS, top_k=2),
)  # fmt: skip


def variant(name: str, base: MedVLMoEConfig = FULL) -> AnyMedVLMoE:
    return build_model(ABLATIONS[name].apply(base), LABELS, seed=3)


def inputs(rows: int = 6, length: int = 9, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(rows, 3, 32, 32, generator=generator)
    words = torch.randint(4, WORDS, (rows, length), generator=generator)
    return images, words, torch.ones(rows, length, dtype=torch.long)


def size(model: AnyMedVLMoE) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameters_by_hand() -> None:
    full = build_model(FULL, LABELS, seed=3)
    whole, by_group = size(full), parameters_by_group(full)
    text, width = by_group["text"], full.vision.width
    assert sum(by_group.values()) == whole
    expected = {
        "single_ffn": whole - (EXPERTS - 1) * (EXPERT + FUSED),
        "no_fusion": whole - 3 * DIM * DIM,
        "no_biogpt": whole - text + TEXT_WIDTH,
        "vision_only": by_group["vision"] + width * LABELS + LABELS,
        "bag_of_words": whole - text + WORDS * TEXT_WIDTH,
        # Twice the hidden units: FUSED more rows above, columns below and biases between.
        "single_ffn_matched": whole - (EXPERTS - 1) * (EXPERT + FUSED) + FUSED * (2 * FUSED + 1),
        "top_1": whole,
        "dense": whole,
        "experts_4": whole - 2 * (EXPERT + FUSED),
        "experts_8": whole + 2 * (EXPERT + FUSED),
        "experts_16": whole + 10 * (EXPERT + FUSED),
        "balance_0": whole,
        "balance_0.001": whole,
        "balance_0.01": whole,
        "shared_expert": whole - FUSED,  # it has no row in the router
        "upcycled": whole,
        "top_p": whole,
    }
    assert {name: size(variant(name)) for name in ABLATIONS} == expected


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_variant_trains_and_its_parameters_have_groups(name: str) -> None:
    model = variant(name)
    config = ABLATIONS[name].apply(FULL)
    output = model(*inputs())
    (output.logits_BY.square().sum() + output.auxiliary_loss).backward()
    cost = measure_cost(model, [Batch(*(part[:1] for part in inputs()), torch.zeros(1, LABELS), ["p"], ["s"])])
    assert cost.parameters == size(model) and 0 < cost.active <= cost.parameters and cost.flops > 0
    groups = {parameter_group(parameter) for parameter, _ in model.named_parameters()}
    experts = {expert_index(group) for group in groups} - {None}
    assert experts == set(range(config.expert_count))
    assert model.routed_samples().shape == (config.expert_count,)
    assert ("shared_expert" in groups) == (name == "shared_expert")
    # What a server builds without values has the same tensors.
    assert empty_model(config, LABELS).state_dict().keys() == model.state_dict().keys()


def test_the_papers_four_are_there_and_others_are_refused() -> None:
    assert PAPER_ABLATIONS == ("single_ffn", "no_fusion", "no_biogpt", "vision_only")
    with pytest.raises(ConfigError, match="no ablation 'single_fnn'; there are single_ffn"):
        ablation_named("single_fnn")


def test_a_single_ffn_is_its_only_expert_and_its_router_is_without_effect() -> None:
    model = variant("single_ffn")
    fused = torch.randn(4, FUSED)
    torch.testing.assert_close(model.moe(fused)[0], model.moe.experts[0](fused))
    model(*inputs()).logits_BY.sum().backward()
    assert not model.moe.router.weight.grad.any()


def test_without_fusion_no_token_looks_at_the_other_modality() -> None:
    images, words, mask = inputs()
    other = words.roll(1, dims=0)
    ungated = dataclasses.replace(FULL, fusion=dataclasses.replace(FULL.fusion, gate="none"))
    for name, changes in (("no_fusion", False), ("dense", True)):  # the second has the fusion
        model = variant(name, ungated).eval()
        image_BNV = model.vision(images)
        first = model.fusion(image_BNV, model.text(words, mask), mask).fused_BF
        second = model.fusion(image_BNV, model.text(other, mask), mask).fused_BF
        assert torch.equal(first[:, :DIM], second[:, :DIM]) != changes, "the half of the image"
        assert not torch.equal(first[:, DIM:], second[:, DIM:]), "the half of the text"


@pytest.mark.parametrize(("name", "reads"), [("no_biogpt", False), ("vision_only", False), ("bag_of_words", True)])
def test_what_is_read_of_the_text(name: str, reads: bool) -> None:
    images, words, mask = inputs()
    model = variant(name).eval()
    assert ABLATIONS[name].apply(FULL).reads_text == reads
    logits = model(images, words, mask).logits_BY
    assert torch.equal(logits, model(images, words.roll(1, dims=0), mask).logits_BY) != reads
    shorter = mask.clone()
    shorter[:, 4:] = 0
    assert torch.equal(logits, model(images, words, shorter).logits_BY) != reads, "nor may the length of a text show"


def test_a_bag_of_words_has_no_order() -> None:
    _, words, mask = inputs()
    model = variant("bag_of_words").eval()
    states = model.text(words, mask)
    turned = model.text(words.flip(1), mask)
    torch.testing.assert_close(states.mean(1), turned.mean(1))
    assert torch.equal(states.flip(1), turned)


def test_other_text_encoders_refuse_biogpts_weights_and_ablations_drop_them() -> None:
    with pytest.raises(ConfigError, match="always learns from random values"):
        TextConfig(encoder="null_token", weights="microsoft/biogpt")
    pretrained = dataclasses.replace(FULL, text=dataclasses.replace(FULL.text, weights="microsoft/biogpt"))
    for name in ("no_biogpt", "bag_of_words"):
        assert ABLATIONS[name].apply(pretrained).text.weights is None


def test_routing_ablations_send_to_as_many_experts_as_they_say() -> None:
    for name, chosen in (("top_1", 1), ("dense", EXPERTS), ("shared_expert", 1)):
        model = variant(name)
        routing = model(*inputs()).routing
        assert routing.expert_index_BJ.shape == (6, chosen)
    top_1 = variant("top_1")
    top_1(*inputs()).logits_BY.square().sum().backward()
    assert top_1.moe.router.weight.grad.any(), "renormalised, a single weight would be 1 whatever the router does"


def test_the_balance_loss_scales_with_alpha() -> None:
    losses = [variant(name).eval()(*inputs()).auxiliary_loss for name in ("balance_0", "balance_0.001", "balance_0.01")]
    assert losses[0] == 0
    torch.testing.assert_close(losses[2], 10 * losses[1])


def test_a_shared_expert_is_added_to_the_routed_ones() -> None:
    moe = variant("shared_expert").moe
    fused = torch.randn(5, FUSED)
    together = moe(fused)[0]
    shared = moe.shared[0](fused)
    moe.shared = torch.nn.ModuleList()
    torch.testing.assert_close(together, moe(fused)[0] + shared)


def top_p_moe(top_p: float, cap: int, **options: object) -> SparseMoE:
    torch.manual_seed(1)
    moe = SparseMoE(FUSED, MoEConfig(experts=EXPERTS, top_k=cap, top_p=top_p, **options))  # type: ignore[arg-type]
    moe.router.weight.data *= 6  # some units sure, some not
    return moe


@pytest.mark.parametrize("cap", [1, 3, EXPERTS])
@pytest.mark.parametrize("top_p", [0.3, 0.7, 1.0])
def test_top_p_sends_to_the_fewest_experts_that_reach_it(top_p: float, cap: int) -> None:
    moe = top_p_moe(top_p, cap)
    fused = torch.randn(40, FUSED)
    output, _, routing = moe(fused)
    expected = torch.zeros_like(fused)
    sent = []
    for row, probabilities in enumerate(torch.softmax(fused @ moe.router.weight.T, dim=-1)):
        order = probabilities.argsort(descending=True).tolist()
        fewest = next((n for n in range(1, EXPERTS + 1) if probabilities[order[:n]].sum() >= top_p), EXPERTS)
        chosen = order[: min(fewest, cap)]
        sent += chosen
        weights = probabilities[chosen] / probabilities[chosen].sum()
        expected[row] = sum(w * moe.experts[k](fused[row]) for w, k in zip(weights, chosen, strict=True))
    torch.testing.assert_close(output, expected)
    assert moe.routed_samples_K.tolist() == [sent.count(expert) for expert in range(EXPERTS)]
    if cap > 1 and top_p == 0.7:
        assert len(set((routing.expert_weight_BJ > 0).sum(1).tolist())) > 1, "the number of experts is dynamic"


def test_top_p_gradients_equal_those_of_the_plain_sum() -> None:
    moe = top_p_moe(0.6, 4)
    fused = torch.randn(12, FUSED)
    output, _, routing = moe(fused)
    output.square().sum().backward()
    found = {name: p.grad.clone() for name, p in moe.named_parameters() if p.grad is not None}
    moe.zero_grad()
    probabilities = torch.softmax(fused @ moe.router.weight.T, dim=-1)
    chosen = torch.zeros_like(probabilities).scatter(1, routing.expert_index_BJ, (routing.expert_weight_BJ > 0).float())
    weights = probabilities * chosen / (probabilities * chosen).sum(-1, keepdim=True)
    plain = sum(weights[:, k : k + 1] * expert(fused) for k, expert in enumerate(moe.experts))
    plain.square().sum().backward()
    for name, parameter in moe.named_parameters():
        if name in found:
            torch.testing.assert_close(found[name], parameter.grad, msg=name)


def test_the_entropy_loss_is_that_of_the_probabilities() -> None:
    moe = top_p_moe(0.5, 3, entropy_alpha=0.5, balance_alpha=0.0)
    moe.router.weight.data.zero_()
    _, loss, _ = moe(torch.randn(7, FUSED))
    torch.testing.assert_close(loss, 0.5 * torch.log(torch.tensor(float(EXPERTS))))


def save(model: AnyMedVLMoE, path: Path) -> Path:
    save_tensors(path, model.state_dict())
    return path


def upcycled(path: Path, noise: float, **moe: object) -> AnyMedVLMoE:
    config = dataclasses.replace(FULL.moe, upcycle_from=str(path), upcycle_noise=noise, **moe)
    return build_model(dataclasses.replace(FULL, moe=config), LABELS, seed=9)


@pytest.mark.parametrize("moe", [{}, {"top_k": EXPERTS}, {"top_p": 0.5, "top_k": 3}, {"router_noise": 2.0}])
def test_an_upcycled_model_is_the_dense_function(tmp_path: Path, moe: dict[str, object]) -> None:
    dense = variant("single_ffn")
    path = save(dense, tmp_path / "dense.safetensors")
    model = upcycled(path, 0.0, **moe)
    torch.testing.assert_close(model.eval()(*inputs()).logits_BY, dense.eval()(*inputs()).logits_BY)


def test_upcycling_noise_is_a_share_of_each_tensors_spread(tmp_path: Path) -> None:
    dense = variant("single_ffn")
    path = save(dense, tmp_path / "dense.safetensors")
    noisy = upcycled(path, 0.1)
    source = dense.moe.experts[0][0].weight
    copies = [expert[0].weight for expert in noisy.moe.experts]
    assert not torch.equal(copies[0], copies[1])
    for copy in copies:
        assert (copy - source).std().item() == pytest.approx(0.1 * source.std().item(), rel=0.15)
    assert torch.equal(noisy.head.weight, dense.head.weight)
    assert torch.equal(upcycled(path, 0.1).moe.experts[2][0].weight, copies[2]), "the same seed, the same noise"


def test_upcycling_refuses_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        upcycled(tmp_path / "nothing.safetensors", 0.0)
    with pytest.raises(CheckpointError, match=r"does not fit at 'fusion\.cross_attention"):
        upcycled(save(variant("no_fusion"), tmp_path / "other.safetensors"), 0.0)
    with pytest.raises(CheckpointError, match="several experts"):
        upcycled(save(variant("dense"), tmp_path / "dense.safetensors"), 0.0)
    with pytest.raises(ConfigError, match="needs renormalise=true"):
        MoEConfig(upcycle_from="x", renormalise=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_p": 0.0}, "more than 0 and at most 1"),
        ({"entropy_alpha": -1.0}, "use 0 or more"),
        ({"shared_experts": -1}, "use 0 or more"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        MoEConfig(**options)  # type: ignore[arg-type]
