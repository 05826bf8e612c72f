"""What `sparsify train` does with a finished model if it is asked: without what is dead, and stored small."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sparsify.cli.console import is_quiet

COMPACT, PACKED = "compact", "model.packed"
"""Names within the folder of a run."""


def after(directory: Path, *, small: bool, packed: bool) -> Iterator[str]:
    """Yield a line for each thing that was made. Raises SparsifyError."""
    source = directory
    if small:
        from sparsify.cli.compact import loads
        from sparsify.compaction.folder import compact_folder
        from sparsify.compaction.gain import advice

        source = directory / COMPACT
        found = compact_folder(directory, source)
        before, now = found.parameters
        yield f"compact: {before:,} → {now:,} parameters ({before / now:.2f}× smaller); {loads(found, source)}"
        if sentence := advice(found):
            yield sentence
        yield from (f"note: {note}" for note in found.notes[:3] if not is_quiet())
    if packed:
        from sparsify.storage import pack

        file = directory / PACKED
        pack(source, file)
        raw = sum(path.stat().st_size for path in source.glob("*.safetensors"))
        size = file.stat().st_size
        yield f"packed: {file}: {size:,} bytes, {raw / size:.2f}× smaller than its weights"
