import torch

from medvlmoe.parallel.skeleton import model_tensors, pickle_skeleton, unpickle_skeleton
from tests.medvlmoe.training.stand_ins import StandInModel

CPU = torch.device("cpu")


def model() -> StandInModel:
    made = StandInModel(8, dropout=0.2, auxiliary=True, batch_norm=True)
    made.text.weight.requires_grad_(False)
    made.head.register_buffer("hidden", torch.arange(3), persistent=False)
    made.tied = made.head  # two names of one module
    made.scale = torch.tensor(3.0)  # neither parameter nor buffer: belongs to the skeleton
    return made


def test_a_skeleton_with_the_numbers_is_the_model() -> None:
    one = model()
    other = unpickle_skeleton(pickle_skeleton(one), CPU)
    assert [name for name, _ in other.named_parameters()] == [name for name, _ in one.named_parameters()]
    assert other.tied is other.head and other.tied.weight is other.head.weight
    assert float(other.scale) == 3.0
    for ours, theirs in zip(model_tensors(one), model_tensors(other), strict=True):
        assert (ours.shape, ours.stride(), ours.dtype, type(ours)) == (
            theirs.shape, theirs.stride(), theirs.dtype, type(theirs),
        )  # fmt: skip
        assert ours.requires_grad == theirs.requires_grad
        theirs.data.copy_(ours)
    inputs = torch.rand(4, 1, 8, 8), torch.ones(4, 5, dtype=torch.int64), torch.ones(4, 5, dtype=torch.int64)
    one.eval()
    other.eval()
    assert torch.equal(one(*inputs).logits_BY, other(*inputs).logits_BY)


def test_a_skeleton_has_no_numbers_and_tells_models_apart() -> None:
    one = model()
    skeleton = pickle_skeleton(one)
    with torch.no_grad():
        one.head.weight.zero_()
    assert pickle_skeleton(one) == skeleton
    one.head.weight.requires_grad_(False)
    assert pickle_skeleton(one) != skeleton
    big = torch.nn.Linear(1000, 1000)
    assert len(pickle_skeleton(big)) < 2000
