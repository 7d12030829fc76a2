"""Results on the standard output stream."""

import json
import sys
from typing import Any


def print_json(document: Any) -> None:
    """Print one JSON document; letters beyond ASCII are escaped where the stream cannot write them all."""
    utf8 = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    print(json.dumps(document, indent=1, ensure_ascii=not utf8))
