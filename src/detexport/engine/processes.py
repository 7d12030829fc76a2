"""Start of a function in one process per device, under detectron2's name and arguments."""

import socket
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import distributed, multiprocessing

from detexport.errors import ConfigError
from detexport.utils import comm

DEFAULT_TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others."""


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: Sequence[Any] = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> Any:
    """Call a function in this process, or in one process per device that form a group.

    Without CUDA devices the processes communicate by Gloo and share the CPU.

    Args:
        main_func: a function of a module, called with ``args``.
        num_gpus_per_machine: processes per machine.
        num_machines: machines.
        machine_rank: number of this machine.
        dist_url: address of the group, such as ``tcp://127.0.0.1:8686``; ``"auto"``: a free port of this
            machine.
        args: arguments of the function.
        timeout: see ``DEFAULT_TIMEOUT``.

    Returns:
        the function's value in a single process; None if it runs in several.

    Raises:
        ConfigError: several machines without an address, or fewer devices than processes.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        return main_func(*args)
    if dist_url in (None, "auto"):
        if num_machines > 1:
            raise ConfigError(
                "several machines need the address of the first",
                got=f"dist_url={dist_url!r} with num_machines={num_machines}",
                expected="dist_url=tcp://HOST:PORT",
                remedy="give dist_url",
            )
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    if torch.cuda.is_available() and num_gpus_per_machine > torch.cuda.device_count():
        raise ConfigError(
            "there are fewer devices than processes",
            got=f"num_gpus_per_machine={num_gpus_per_machine}",
            expected=f"at most {torch.cuda.device_count()}",
            remedy="start fewer processes",
        )
    process = (main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, tuple(args), timeout)
    multiprocessing.spawn(_run, nprocs=num_gpus_per_machine, args=process)
    return None


def _run(
    local_rank: int,
    main_func: Callable[..., Any],
    world_size: int,
    per_machine: int,
    machine_rank: int,
    dist_url: str,
    args: tuple[Any, ...],
    timeout: timedelta,
) -> None:
    on_cuda = torch.cuda.is_available()
    distributed.init_process_group(
        "nccl" if on_cuda else "gloo",
        init_method=dist_url,
        world_size=world_size,
        rank=machine_rank * per_machine + local_rank,
        timeout=timeout,
    )
    if on_cuda:
        torch.cuda.set_device(local_rank)
    comm.create_local_process_group(per_machine)
    comm.synchronize()
    try:
        main_func(*args)
    finally:
        distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
