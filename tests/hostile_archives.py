"""Archives of somebody who wants them to run something."""

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detexport.formats.pt2 import SAMPLE_INPUTS


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def rewrite(path: Path, change: Callable[[dict[str, bytes]], Any]) -> None:
    """Change the members of an archive."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def disguise(path: Path, mark: Path) -> None:
    """Hide in a program what makes ``mark`` when it is unpickled, where ``zipfile`` does not look."""
    rewrite(path, lambda members: None)
    plain = path.read_bytes()
    rewrite(path, lambda members: members.update({f"model/{SAMPLE_INPUTS}": pickle.dumps(Touch(mark))}))
    path.write_bytes(two_archives(plain, path.read_bytes()))


def two_archives(for_zipfile: bytes, for_torch: bytes) -> bytes:
    """One file in which the two readers find different members.

    The end of an archive says how long its directory is, and where. ``zipfile`` takes the one that ends
    there, and shifts every member by as much as it lies elsewhere than was said; torch takes the one that
    lies where was said. Both must be as long: the members of both have the same names.
    """
    end = struct.Struct("<4s4H2LH")
    shown, hidden = (end.unpack(data[-end.size :]) for data in (for_zipfile, for_torch))
    assert shown[3:6] == hidden[3:6], "as many members, in directories of one length"
    size, shown_at = shown[5:7]
    # What zipfile adds to a member's place must not lead before the file's beginning.
    body = for_torch[: hidden[6]] + bytes(shown_at)
    entries = for_torch[hidden[6] : hidden[6] + size]
    shift = len(entries) + shown_at
    moved = bytearray(for_zipfile[shown_at : shown_at + size])
    with zipfile.ZipFile(io.BytesIO(for_zipfile)) as archive:
        for info in archive.infolist():
            place = moved.index(info.filename.encode()) - 4
            moved[place : place + 4] = struct.pack(
                "<L", len(body) + len(entries) + info.header_offset - shift
            )
    return body + entries + for_zipfile[:shown_at] + moved + end.pack(*shown[:6], len(body), 0)
