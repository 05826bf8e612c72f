"""Plain data → YAML that our reader reads back as the same data."""

from __future__ import annotations

from typing import Any

import yaml

from sparsify.escaping import visible
from sparsify.recipe.scalars import read_scalar


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper, quoting what YAML 1.2 would read as something else, without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        same = isinstance(read_scalar(text), str) and text[:1] not in "'\""
    except ValueError:
        same = False
    same = same and visible(text) == text  # else what shows the YAML would write escapes where they are none
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if same else '"')


_Dumper.add_representer(str, _string)


def write(data: Any) -> str:
    """Return `data` (dicts, lists, scalars) as YAML, keys in their order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
