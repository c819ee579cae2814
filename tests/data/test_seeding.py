"""Seeds of the global generators."""

import torch

from stable_audio.data.seeding import derive_seed, seed_draws_on


def test_draws_are_those_of_torch_s_own_seeding() -> None:
    seed = derive_seed("test", 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        expected = torch.rand(5)
        seed_draws_on(torch.device("cpu"), seed)
        assert torch.equal(torch.rand(5), expected)
        seed_draws_on(torch.device("cpu"), seed + 1)
        assert not torch.equal(torch.rand(5), expected)
