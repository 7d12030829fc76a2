"""Batch normalizations that only extensions use."""

import multiprocessing
from pathlib import Path

import pytest
import torch
from torch import nn

from detexport.errors import ConfigError
from detexport.layers import CycleBatchNormList, FrozenBatchNorm2d, NaiveSyncBatchNorm


def test_a_converted_norm_computes_what_the_batch_norm_computed() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4, eps=1e-3), nn.ReLU())).eval()
    norm = module[1][0]
    for values in norm.state_dict().values():
        if values.dtype == torch.float32:
            values.copy_(torch.rand(4) + 0.1)
    x = torch.randn(2, 3, 5, 5)
    expected = module(x)
    assert FrozenBatchNorm2d.convert_frozen_batchnorm(module) is module
    assert isinstance(module[1][0], FrozenBatchNorm2d)
    torch.testing.assert_close(module.train()(x), expected)
    assert isinstance(FrozenBatchNorm2d.convert_frozen_batchnorm(norm), FrozenBatchNorm2d)


def test_a_cycle_has_its_own_statistics_for_each_call_and_one_transform() -> None:
    torch.manual_seed(0)
    cycle = CycleBatchNormList(3, num_features=2)
    assert {"weight", "bias", "0.running_mean", "2.running_var"} <= set(cycle.state_dict())
    levels = [torch.randn(4, 2, 5, 5) + shift for shift in (0.0, 10.0, -10.0)]
    for x in levels:
        assert cycle(x).mean().abs() < 1e-5
    means = [norm.running_mean.mean().item() for norm in cycle]
    assert means == pytest.approx([0, 1, -1], abs=0.1)
    cycle.weight.data.fill_(2)
    cycle.bias.data.fill_(1)
    assert cycle(levels[0]).mean().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("stats_mode", ["", "N"])
def test_in_one_process_it_is_batch_norm(stats_mode: str) -> None:
    x = torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(NaiveSyncBatchNorm(4, stats_mode=stats_mode)(x), nn.BatchNorm2d(4)(x))
    with pytest.raises(ConfigError, match="stats_mode"):
        NaiveSyncBatchNorm(4, stats_mode="M")


def run(rank: int, path: str, sizes: list[int], stats_mode: str, results: object) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    torch.manual_seed(0)
    batch = torch.randn(sum(sizes), 4, 3, 3)
    part = batch.split(sizes)[rank].clone().requires_grad_()
    norm = NaiveSyncBatchNorm(4, stats_mode=stats_mode)
    out = norm(part)
    (out * out.detach().cos()).sum().backward()
    results.put((rank, out.detach().numpy(), part.grad.numpy(), norm.running_var.numpy()))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("sizes", "stats_mode"), [([2, 2], ""), ([3, 1], "N"), ([4, 0], "N")])
def test_two_processes_share_their_statistics(tmp_path: Path, sizes: list[int], stats_mode: str) -> None:
    """Outputs and gradients are those of one batch normalization over both batches."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    arguments = (str(tmp_path / "store"), sizes, stats_mode, results)
    processes = [context.Process(target=run, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    found = sorted((results.get(timeout=120) for _ in processes), key=lambda one: one[0])
    for process in processes:
        process.join()
    torch.manual_seed(0)
    batch = torch.randn(sum(sizes), 4, 3, 3, requires_grad=True)
    norm = nn.BatchNorm2d(4)
    out = norm(batch)
    (out * out.detach().cos()).sum().backward()
    for position, expected in ((1, out.detach()), (2, batch.grad)):
        actual = torch.cat([torch.from_numpy(one[position]) for one in found])
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(torch.from_numpy(found[0][3]), torch.from_numpy(found[1][3]))
