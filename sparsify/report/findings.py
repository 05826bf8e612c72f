"""What modifiers found out on the way, for people: each says it in its own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from sparsify.modifiers import Modifier
from sparsify.report.written import Written


def findings(report: Written | Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (modifier, sentence) from a report; none from one that is not as ours are written."""
    try:
        written = report if isinstance(report, Written) else Written.model_validate(report)
    except ValidationError:
        return []
    return [
        (key.rpartition("/")[2], sentence)
        for key, found in written.modifiers.items()
        for modifier in Modifier.members().values()
        for sentence in modifier.findings(found.model_dump(by_alias=True))
    ]
