"""Repacked archives depend on their content alone."""

import zipfile
from pathlib import Path

import torch

from detexport.formats.zip_archive import ARCHIVE_ROOT, repack_zip


def archive(path: Path, root: str, names: list[str], year: int) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for name in names:
            file.writestr(zipfile.ZipInfo(f"{root}/{name}", (year, 1, 1, 0, 0, 0)), name * 3)
    return path


def test_order_time_and_folder_leave_no_trace(tmp_path: Path) -> None:
    first = archive(tmp_path / "a.zip", "one", ["x", "y", "x.debug_pkl"], 2001)
    second = archive(tmp_path / "b.zip", "two", ["y", "x.debug_pkl", "x"], 2020)
    for source in (first, second):
        repack_zip(source, source.with_suffix(".repacked"), left_out=(".debug_pkl",))
    assert first.with_suffix(".repacked").read_bytes() == second.with_suffix(".repacked").read_bytes()
    with zipfile.ZipFile(first.with_suffix(".repacked")) as file:
        assert file.namelist() == [f"{ARCHIVE_ROOT}/x", f"{ARCHIVE_ROOT}/y"]
        assert file.read(f"{ARCHIVE_ROOT}/y") == b"yyy"


def test_tensors_stay_aligned_for_memory_mapping(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(3), "b": torch.ones(5)}, tmp_path / "weights.pth")
    repack_zip(tmp_path / "weights.pth", tmp_path / "repacked.pth")
    loaded = torch.load(tmp_path / "repacked.pth", mmap=True, weights_only=True)
    assert torch.equal(loaded["b"], torch.ones(5))
    with zipfile.ZipFile(tmp_path / "repacked.pth") as file:
        data = [member for member in file.infolist() if "/data/" in member.filename]
        for member in data:
            file.fp.seek(member.header_offset + 26)
            name, extra = (int.from_bytes(file.fp.read(2), "little") for _ in range(2))
            assert (member.header_offset + 30 + name + extra) % 64 == 0
        assert data
