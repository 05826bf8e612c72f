"""ONNX Runtime, on a graph that the exporter has checked."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from sparsify.benchmarking.engines.base import Bind, Engine, Inputs, Prepared
from sparsify.report.latency import Call

NEEDS = ("onnx", "onnxruntime", "onnxscript")


class Runtime(Engine):
    """`onnxruntime`."""

    name: ClassVar[str] = "onnxruntime"
    about: ClassVar[str] = "ONNX Runtime's kernels multiply dense matrices"

    def missing(self) -> str | None:
        """Look for its packages."""
        absent = [name for name in NEEDS if find_spec(name) is None]
        return f"it needs {', '.join(absent)}: pip install 'sparsify-torch[export]'" if absent else None

    def prepare(self, model: Prepared, folder: Path) -> Prepared:
        """Export. Raises ExportError."""
        from sparsify.export.onnx import export

        return Prepared(export(model.path, folder / "model.onnx").path)

    def load(self) -> None:
        """Import ONNX Runtime."""
        import onnxruntime  # noqa: F401

    def open(self, prepared: Prepared, threads: int) -> Bind:
        """Make a session."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.force_spinning_stop", "1")  # its threads must not slow what is next
        session: Any = onnxruntime.InferenceSession(str(prepared.path), options, providers=["CPUExecutionProvider"])

        def bind(inputs: Inputs) -> Call:
            arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
            return lambda: session.run(None, arrays)

        return bind
