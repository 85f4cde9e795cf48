import torch

from medvlmoe.seeds import derive_seed, seeded_generator


def test_every_part_of_the_purpose_matters() -> None:
    seeds = {
        derive_seed(seed, *purpose)
        for seed in (0, 1)
        for purpose in (("shuffle", 0), ("shuffle", 1), ("epoch", 0), ("shuffle",), ())
    }
    assert len(seeds) == 10
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_value_does_not_depend_on_the_process() -> None:
    assert derive_seed(0, "shuffle", 1) == 9039233566760333659


def test_generators_do_not_touch_the_global_one() -> None:
    before = torch.get_rng_state()
    torch.randn(3, generator=seeded_generator(0, "x"))
    assert torch.equal(torch.get_rng_state(), before)
