"""The pages of the documentation and the code blocks in them.

A shell or Python block carries a marker, an HTML comment on the line before it:

- ``<!-- run: SCENE -->``: a test runs the block in a scratch folder laid out as the scene (``scenes.py``);
- ``<!-- run: SCENE, slow -->``: the same, in the slow tests;
- ``<!-- not run: REASON -->``: no test runs it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXECUTABLE = {"sh", "python"}
# What a block may hold besides: output, code of other languages, file contents.
SHOWN = {"text", "cpp", "yaml", "json", "ini"}

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```[ ]*$", re.M | re.S)
MARKER = re.compile(
    r"<!-- (?:run: (?P<scene>[a-z]+)(?P<slow>, slow)?|not run: (?P<reason>\S[^>]*?)) -->[ ]*\Z"
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Args:
        page: path of the page in the repository.
        line: line of the opening fence.
        language: the fence's word.
        code: the lines between the fences.
        scene: the scratch folder it runs in; empty where it is not run or has no marker.
        slow: half a minute or more.
        reason: why it is not run; empty where it is run or has no marker.
    """

    page: str
    line: int
    language: str
    code: str
    scene: str = ""
    slow: bool = False
    reason: str = ""

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


def read_blocks(page: str, text: str) -> Iterator[Block]:
    for fence in FENCE.finditer(text):
        before = text[: fence.start()]
        marker = MARKER.search(before.removesuffix("\n"))
        found = marker.groupdict() if marker else {}
        indent = fence["indent"]
        yield Block(
            page,
            before.count("\n") + 1,
            fence["language"].strip(),
            "".join(line.removeprefix(indent) for line in fence["code"].splitlines(keepends=True)),
            scene=found.get("scene") or "",
            slow=bool(found.get("slow")),
            reason=found.get("reason") or "",
        )


def all_blocks() -> list[Block]:
    return [
        block
        for page in PAGES
        for block in read_blocks(page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8"))
    ]
