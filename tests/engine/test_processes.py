"""A function in one or several processes."""

from pathlib import Path

import pytest
import torch

from detexport.engine import launch
from detexport.errors import ConfigError
from detexport.utils import comm


def write_sum(folder: Path) -> int:
    total = sum(comm.all_gather(comm.get_rank() + 1))
    (folder / f"{comm.get_rank()}.txt").write_text(f"{total} {comm.get_local_rank()} {comm.get_world_size()}")
    return total


def test_one_process_is_this_one(tmp_path: Path) -> None:
    assert launch(write_sum, 1, args=(tmp_path,)) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="counts processes on the CPU")
def test_two_processes_form_a_group(tmp_path: Path) -> None:
    assert launch(write_sum, 2, dist_url="auto", args=(tmp_path,)) is None
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == ["3 0 2", "3 1 2"]


def test_several_machines_need_an_address() -> None:
    with pytest.raises(ConfigError, match="need the address of the first"):
        launch(write_sum, 1, num_machines=2)
