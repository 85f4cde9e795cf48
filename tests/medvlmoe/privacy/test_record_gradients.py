"""Every record's gradient of every trainable parameter, against a plain loop over single records."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from medvlmoe.configuration import compose
from medvlmoe.data.batch import Batch
from medvlmoe.errors import ConfigError
from medvlmoe.model import build_model
from medvlmoe.privacy.record_gradients import RecordGradients
from medvlmoe.training.losses import count_known, label_loss, record_losses
from strategies.run_config import RunConfig
from tests.medvlmoe.privacy.models import IMAGE_SIZE, MODELS, SPACE, gradients, make_batch, rows_of, tiny_model

ROWS = 5


def looped(model: nn.Module, batch: Batch) -> list[dict[str, Tensor]]:
    """The reference: each record alone, by plain autograd and the ordinary loss."""
    found = []
    for row in range(len(batch)):
        alone = rows_of(batch, [row])
        output = model(alone.image_BCHW, alone.input_ids_BL, alone.attention_mask_BL)
        loss = label_loss(output.logits_BY, alone.labels_BY, SPACE, count_known(alone.labels_BY, SPACE))
        found.append(gradients(model, loss))
    return found


def watched(model: nn.Module, batch: Batch, *, flat: bool) -> RecordGradients:
    model.zero_grad(set_to_none=True)
    with RecordGradients(model, len(batch), flat=flat) as records:
        output = model(batch.image_BCHW, batch.input_ids_BL, batch.attention_mask_BL)
        record_losses(output.logits_BY, batch.labels_BY, SPACE).sum().backward()
    records.finish()
    return records


def close(one: Tensor, other: Tensor) -> bool:
    within = 1e-5 if one.dtype == torch.float32 else 1e-10
    return torch.allclose(one, other, rtol=within, atol=within * max(1.0, float(other.abs().max())))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
@pytest.mark.parametrize(("name", "training"), [*((name, True) for name in MODELS), ("vit", False)])
def test_every_gradient_is_that_of_the_record_alone(name: str, training: bool, dtype: torch.dtype) -> None:
    """To 1e-5 as the models are trained; in double precision, where rounding hides nothing, to 1e-10."""
    model = MODELS[name]().train(training).to(dtype)
    batch = make_batch(model, ROWS)
    batch = replace(batch, image_BCHW=batch.image_BCHW.to(dtype))
    expected = looped(model, batch)
    factor_B = torch.tensor([0.5, 0.0, 2.0, 1.0, 0.1], dtype=dtype)
    squares_B = torch.stack([sum(g.square().sum() for g in one.values()) for one in expected])  # type: ignore[misc]
    names = {parameter for parameter, values in model.named_parameters() if values.requires_grad}
    for flat in (True, False):
        found = watched(model, batch, flat=flat)
        assert torch.allclose(found.squared_norms(), squares_B, rtol=1e-4)
        sums = dict(found.weighted_sum(factor_B))
        by_record = dict(found.by_record())
        for parameter in names:
            whole_BP = torch.stack([one[parameter] for one in expected])
            assert close(by_record.get(parameter, torch.zeros_like(whole_BP)), whole_BP), parameter
            total = torch.einsum("b...,b->...", whole_BP, factor_B)
            assert close(sums.get(parameter, torch.zeros_like(total)), total), parameter
        idle = {parameter for parameter in names if all(not one[parameter].any() for one in expected)}
        assert names - sums.keys() <= idle


@pytest.mark.parametrize("dispatch", ["sparse", "dense"])
@pytest.mark.parametrize("encoder", ["biogpt", "null_token", "embedding_bag"])
def test_the_tiny_preset_and_its_text_ablations(encoder: str, dispatch: str) -> None:
    """``null_token`` is the paper's ablation without BioGPT: one learned vector stands in the place of every text."""
    preset = compose(RunConfig, ["model=tiny", f"model.text.encoder={encoder}", "model.moe.balance_alpha=0",
                                 "model.moe.router_noise=0", "model.text.dropout=0",
                                 f"model.vision.image_size={IMAGE_SIZE}"]).model  # fmt: skip
    if dispatch == "dense":
        preset = replace(preset, moe=replace(preset.moe, top_k=preset.moe.experts))
    model = build_model(preset, len(SPACE), seed=1)
    batch = make_batch(model, ROWS)
    expected = looped(model, batch)
    for flat in (True, False):
        by_record = dict(watched(model, batch, flat=flat).by_record())
        for name in expected[0]:
            whole_BP = torch.stack([one[name] for one in expected])
            assert close(by_record.get(name, torch.zeros_like(whole_BP)), whole_BP), name
        assert ("text.model.vector" in by_record) == (encoder == "null_token")
        if encoder == "null_token":
            assert by_record["text.model.vector"].flatten(1).any(1).sum() >= 3


@pytest.mark.parametrize("flat", [True, False])
def test_grouped_convolutions(flat: bool) -> None:
    """Against plain autograd of the whole batch: at 1 x 1 pixels this network's norms magnify the last bit."""
    model = tiny_model("test_efficientnet").eval()
    batch = make_batch(model, ROWS)
    output = model(batch.image_BCHW, batch.input_ids_BL, batch.attention_mask_BL)
    expected = gradients(model, record_losses(output.logits_BY, batch.labels_BY, SPACE).sum())
    found = dict(watched(model, batch, flat=flat).weighted_sum(torch.ones(ROWS)))
    assert all(close(found[name], gradient) for name, gradient in expected.items() if gradient.any())


def test_shared_matrices_are_one_gradient_a_record() -> None:
    """The norm is that of the sum over both directions, not of the two separately."""
    model = tiny_model("test_resnet")
    batch = make_batch(model, ROWS)
    name = "fusion.cross_attention.attention.query.weight"
    squares_B = torch.stack([one[name].square().sum() for one in looped(model, batch)])
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter_name == name)
    for flat in (True, False):
        assert torch.allclose(watched(model, batch, flat=flat).squared_norms(), squares_B, rtol=1e-4)


def largest_addition(found: RecordGradients, records: int) -> float:
    """L2 norm of the most that one record adds to the sum that gradients clipped to 1 make."""
    factor_B = 1.0 / found.squared_norms().sqrt().clamp(min=1.0)
    return max(
        sum(float(total.double().square().sum()) for _, total in found.weighted_sum(factor_B * alone_B)) ** 0.5
        for alone_B in torch.eye(records)
    )


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize(("shift", "queries"), [(1e5, 1e6), (1e5, 1e7), (1e5, 1e8)])
def test_weights_made_to_cancel_inner_products_let_no_record_through(flat: bool, shift: float, queries: float) -> None:
    """Attention whose keys differ by little from a large common value: their gradients add up to 0 over positions.

    In single precision the norms of such a gradient come out as rounding; records were added up to 371 times too large.
    """
    model = tiny_model("test_resnet", text={"hidden_size": 64, "feed_forward_size": 64})
    layer = model.text.model.layers[1]
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        layer.self_attn_layer_norm.bias.fill_(shift)
        for part, scale in ((layer.self_attn.k_proj, 0.3 / queries), (layer.self_attn.v_proj, 1.0)):
            weight = torch.randn(64, 64, generator=generator)
            part.weight.copy_((weight - weight.mean(1, keepdim=True)) / 8 * scale)  # blind to what all inputs share
            part.bias.zero_()
        layer.self_attn.q_proj.weight.zero_()
        layer.self_attn.q_proj.bias.copy_(queries * torch.randn(64, generator=generator))
    batch = make_batch(model, ROWS)
    tokens = torch.randint(4, 260, (ROWS, 12), generator=generator)
    batch = replace(
        batch, input_ids_BL=tokens, attention_mask_BL=torch.ones_like(tokens), labels_BY=torch.ones(ROWS, len(SPACE))
    )
    assert 0.9 < largest_addition(watched(model, batch, flat=flat), ROWS) <= 1 + 1e-6


class Cancelling(nn.Module):
    """Positions in pairs with all but equal inputs and all but opposite gradients."""

    def __init__(self, kind: str, size: float) -> None:
        super().__init__()
        self.linear, self.embedding = nn.Linear(32, 32, bias=False), nn.Embedding(50, 32)
        (self.linear if kind == "embedding" else self.embedding).requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        signs = torch.tensor([1.0, -1.0])[:, None]
        self.inputs = size * torch.ones(3, 2, 32) + torch.randn(3, 2, 32, generator=generator)
        self.outputs = size * signs * torch.randn(3, 1, 32, generator=generator)
        self.outputs += torch.randn(3, 2, 32, generator=generator)
        self.kind = kind

    def forward(self) -> Tensor:
        taken = self.linear(self.inputs) if self.kind == "linear" else self.embedding(torch.tensor([[7, 7]] * 3))
        return (taken * self.outputs).sum()


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("kind", ["linear", "embedding"])
@pytest.mark.parametrize("size", [1.0, 1e3, 1e6])
def test_no_degree_of_cancelling_adds_more_than_the_bound(kind: str, size: float, flat: bool) -> None:
    """The norm is the true one until there are more digits to lose than double precision has, and above it then."""
    model = Cancelling(kind, size)
    with RecordGradients(model, 3, flat=flat) as found:
        model().backward()
    found.finish()
    outputs, inputs = model.outputs.double(), model.inputs.double()
    true = outputs.sum(1) if kind == "embedding" else (outputs.mT @ inputs).flatten(1)
    norms_B = found.squared_norms().sqrt()
    if not flat:  # that norm is of the gradient as it was made, which is the one that is added
        assert (norms_B >= true.norm(dim=1) * (1 - 1e-6)).all()
    if size <= 1e3:
        assert torch.allclose(norms_B, true.norm(dim=1).float(), rtol=1e-3)
    assert 0.9 < largest_addition(found, 3) <= 1 + 1e-6


@pytest.mark.parametrize("rows", [1, 2, 12])
def test_any_number_of_records(rows: int) -> None:
    """12 is also the number of text positions: an axis of that length must not be taken for the records."""
    model = MODELS["tokens"]()
    batch = make_batch(model, rows)
    expected = looped(model, batch)
    by_record = dict(watched(model, batch, flat=False).by_record())
    for name, gradient_BP in by_record.items():
        assert close(gradient_BP, torch.stack([one[name] for one in expected])), name


@pytest.mark.parametrize("name", ["vit", "resnet", "tokens"])
def test_another_record_changes_no_gradient(name: str) -> None:
    """Neither routing nor normalisation couples records: what record 0 becomes is nothing to the others."""
    model = MODELS[name]()
    batch = make_batch(model, ROWS)
    other = make_batch(model, ROWS, seed=9)
    for field in ("image_BCHW", "input_ids_BL", "attention_mask_BL", "labels_BY"):
        getattr(other, field)[1:] = getattr(batch, field)[1:]
    assert not torch.equal(other.image_BCHW[0], batch.image_BCHW[0])
    first, second = (dict(watched(model, rows, flat=True).by_record()) for rows in (batch, other))
    for parameter in first.keys() & second.keys():
        assert close(first[parameter][1:], second[parameter][1:]), parameter
    assert not close(first["head.weight"][:1], second["head.weight"][:1])


class Escaping(nn.Module):
    """A parameter in a place where no rule sees which record it meets."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.weight = nn.Parameter(torch.ones(4, 4))
        self.norm = nn.BatchNorm1d(4)
        self.attention = nn.MultiheadAttention(4, 1, batch_first=True)
        for part, wanted in ((self.norm, "norm"), (self.attention, "attention")):
            part.requires_grad_(how == wanted)

    def forward(self, rows_BF: Tensor) -> Tensor:
        if self.how == "product":
            return rows_BF @ self.weight
        if self.how == "turned":
            return rows_BF.mm(self.weight.T)
        if self.how == "added":
            return rows_BF + self.weight  # as many rows as the batch, and not the records
        if self.how == "sequence":
            return nn.functional.linear(rows_BF.repeat(2, 1), self.weight)[:4]
        if self.how == "indexed":
            return rows_BF + nn.functional.embedding(torch.arange(4), self.weight)
        if self.how == "repeated":
            return rows_BF[:, None] + self.weight.repeat(4, 1)[:, None]
        if self.how == "repeated_inside":
            return rows_BF[:, None, None] + self.weight.repeat(2, 1, 1).repeat(2, 1, 1)
        if self.how == "norm":
            return self.norm(rows_BF)
        return self.attention(rows_BF[:, None], rows_BF[:, None], rows_BF[:, None])[0]


@pytest.mark.parametrize(
    "how", ["product", "turned", "added", "sequence", "indexed", "repeated", "repeated_inside", "norm", "attention"]
)
def test_a_use_without_a_rule_is_refused(how: str) -> None:
    model, inputs = Escaping(how), torch.randn(4, 4)

    def watch() -> None:
        with RecordGradients(model, 4) as records:
            model(inputs).sum().backward()
        records.finish()

    with pytest.raises(ConfigError, match="privacy: "):
        watch()


def test_the_model_is_as_before_afterwards() -> None:
    model = MODELS["resnet"]()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    watched(model, make_batch(model, 3), flat=False)
    assert model.moe.row_scope is None
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
