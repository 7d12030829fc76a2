"""Phrases that the project's prose does not use, since the field has a word for them, or they say nothing.

    python tests/docs/banned.py [FILE ...]

lists where they stand, by default in all documentation and sources.
"""

import re
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Beside each what to write.
PHRASES = {
    "anew": "again, rebuilt, rerun",
    "beside the model": "compared with the model",
    "be mended": "be corrected",
    "can mend": "can correct",
    "found of what is annotated": "AP against ground truth",
    "for ever": "name the limit",
    "gives what": "returns, outputs",
    "held against": "compared with",
    "held to": "checked against, within a tolerance",
    "holds it against": "compares it with",
    "images a call": "batch size",
    "is asked about": "name the check",
    "is not asked": "is not checked",
    "is said": "is reported, documented",
    "is told": "is reported",
    "are told": "are reported",
    "told beside": "reported beside",
    "what is told": "what is reported",
    "learnt from": "trained on",
    "lie apart": "numerical error",
    "lies apart": "numerical error",
    "lies beyond": "is outside",
    "likewise": "also, or name the thing",
    "made anew": "rebuilt",
    "next to nothing": "name the cost",
    "of much": "crowded",
    "of nothing": "blank",
    "of one's own": "custom, your own",
    "of the day": "current",
    "on the way": "leave it out, or name the step",
    "one side alone": "missing (eager only), extra (artifact only)",
    "roads": "ways",
    "see the class": "nothing: do not write the docstring",
    "somebody's own": "custom",
    "takes and gives": "inputs and outputs",
    "that hurt": "edge-case inputs",
    "to hurt": "edge-case inputs",
    "the like": "name the things",
    "the proof": "the parity check",
    "the road": "the way, the command line",
    "the way of the data": "the data flow",
    "what both found": "paired detections",
    "what is found": "detections",
    "what lies there": "name it",
    "wherever": "where",
    "would die": "unsupported by this CPU",
}


def find(text: str) -> list[tuple[int, str]]:
    """Return the line and the phrase of each hit, also of those broken across lines of prose or comments."""
    found = [
        (text.count("\n", 0, match.start()) + 1, phrase)
        for phrase in PHRASES
        for match in re.finditer(r"\b" + r"[\s#]+".join(phrase.split()) + r"\b", text, re.I)
    ]
    return sorted(found)


def files_of(name: str) -> list[Path]:
    """Return the files of text below a folder of the repository, or the file of that name."""
    path = ROOT / name
    return (
        [path]
        if path.is_file()
        else sorted(p for p in path.rglob("*") if p.suffix in (".py", ".md", ".jinja"))
    )


def count(name: str) -> Counter[str]:
    return Counter(phrase for path in files_of(name) for _, phrase in find(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    for name in sys.argv[1:] or ("README.md", "CONTRIBUTING.md", "docs", "src", "stages", "tools"):
        for path in files_of(name):
            for line, phrase in find(path.read_text(encoding="utf-8")):
                print(f"{path.relative_to(ROOT)}:{line}: {phrase} -> {PHRASES[phrase]}")
