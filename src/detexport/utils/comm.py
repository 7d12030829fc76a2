"""Communication between the processes of a distributed run; in a single process nothing is communicated."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

_local_group: Any = None
"""Group of the processes of this machine, see ``create_local_process_group``."""


def _is_running() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def get_world_size() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if _is_running() else 1


def get_rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if _is_running() else 0


def is_main_process() -> bool:
    """Return whether this process has the rank 0."""
    return get_rank() == 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Create the group of the processes of each machine; each process calls it once.

    Args:
        num_workers_per_machine: processes per machine, which have consecutive ranks.

    Raises:
        RuntimeError: it was called before, or the processes do not divide into machines.
    """
    global _local_group
    size = get_world_size()
    if _local_group is not None or size % num_workers_per_machine:
        raise RuntimeError(
            f"a local process group of {num_workers_per_machine} of {size} processes cannot be created"
        )
    for start in range(0, size, num_workers_per_machine):
        ranks = list(range(start, start + num_workers_per_machine))
        group = distributed.new_group(ranks)
        if get_rank() in ranks:
            _local_group = group


def get_local_process_group() -> Any:
    """Return the group of the processes of this machine.

    Raises:
        RuntimeError: ``create_local_process_group`` was not called.
    """
    if _local_group is None:
        raise RuntimeError("there is no local process group; call create_local_process_group")
    return _local_group


def get_local_rank() -> int:
    """Return the number of this process on its machine."""
    return distributed.get_rank(group=get_local_process_group()) if _is_running() else 0


def get_local_size() -> int:
    """Return the number of processes on this machine."""
    return distributed.get_world_size(group=get_local_process_group()) if _is_running() else 1


def synchronize() -> None:
    """Wait until all processes have called this."""
    if get_world_size() > 1:
        distributed.barrier()


def all_gather(data: Any, group: Any = None) -> list[Any]:
    """Return the values of all processes, by rank.

    Args:
        data: any value that can be pickled.
        group: the processes; by default all.
    """
    if get_world_size() == 1:
        return [data]
    values: list[Any] = [None] * distributed.get_world_size(group=group)
    distributed.all_gather_object(values, data, group=group)
    return values


def gather(data: Any, dst: int = 0, group: Any = None) -> list[Any]:
    """Return the values of all processes, by rank, on ``dst``, and an empty list on the others.

    Args:
        data: any value that can be pickled.
        dst: rank of the process that receives them.
        group: the processes; by default all.
    """
    if get_world_size() == 1:
        return [data]
    values = [None] * distributed.get_world_size(group=group) if get_rank() == dst else None
    distributed.gather_object(data, values, dst=dst, group=group)
    return values or []


def shared_random_seed() -> int:
    """Return a random number that is the same in all processes; each calls it."""
    return int(all_gather(int(np.random.randint(2**31)))[0])


def reduce_dict(input_dict: Mapping[str, Tensor], average: bool = True) -> dict[str, Tensor]:
    """Return the sums of scalar tensors over all processes, on rank 0; on others the values are undefined.

    Args:
        input_dict: scalar tensors by name, the same names in each process.
        average: divide by the number of processes.
    """
    if get_world_size() == 1:
        return dict(input_dict)
    names = sorted(input_dict)
    with torch.no_grad():
        values = torch.stack([input_dict[name] for name in names])
        distributed.reduce(values, dst=0)
        if average and is_main_process():
            values /= get_world_size()
    return dict(zip(names, values, strict=True))
