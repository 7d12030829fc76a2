import re
from pathlib import Path

import detexport.report
from detexport.report.glossary import TERMS

TEMPLATES = Path(detexport.report.__file__).parent / "templates"


def test_sections_explain_all_terms_and_no_others() -> None:
    used = {
        name
        for path in TEMPLATES.glob("*.jinja")
        for names in re.findall(r"ui\.terms\(\[(.*?)\]", path.read_text(encoding="utf-8"))
        for name in re.findall(r"'([^']+)'", names)
    }
    assert used <= TERMS.keys()
    assert TERMS.keys() - used == {"AP", "AR", "PQ", "mIoU"}, "shown where a job has them"
