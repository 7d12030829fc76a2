"""Communication between processes: nothing to do in one, and what two of them exchange."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch

from detexport.utils import comm


def test_a_single_process() -> None:
    assert (comm.get_world_size(), comm.get_rank(), comm.get_local_rank(), comm.get_local_size()) == (
        1,
        0,
        0,
        1,
    )
    assert comm.is_main_process()
    assert comm.all_gather("a") == comm.gather("a") == ["a"]
    values = {"loss": torch.tensor(2.0)}
    assert comm.reduce_dict(values) == values
    assert 0 <= comm.shared_random_seed() < 2**31
    comm.synchronize()
    with pytest.raises(RuntimeError, match="create_local_process_group"):
        comm.get_local_process_group()


def run(rank: int, store: str, results: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    comm.create_local_process_group(2)
    comm.synchronize()
    reduced = comm.reduce_dict({"b": torch.tensor(float(rank)), "a": torch.tensor(4.0)})
    results.put(
        (
            (comm.get_rank(), comm.get_world_size(), comm.get_local_rank(), comm.get_local_size()),
            comm.all_gather({"rank": rank}),
            comm.gather(rank, dst=1),
            {name: value.item() for name, value in reduced.items()},
            comm.shared_random_seed(),
        )
    )
    torch.distributed.destroy_process_group()


def test_two_processes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(target=run, args=(rank, str(tmp_path / "store"), results)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    first, second = sorted((results.get(timeout=300) for _ in processes), key=lambda one: one[0])
    for process in processes:
        process.join()
    assert (first[0], second[0]) == ((0, 2, 0, 2), (1, 2, 1, 2))
    assert first[1] == second[1] == [{"rank": 0}, {"rank": 1}]
    assert (first[2], second[2]) == ([], [0, 1])
    assert first[3] == {"a": 4.0, "b": 0.5}
    assert first[4] == second[4]
