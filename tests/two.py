"""Two processes that import once: `python -m tests.two IMPORTS MODULE ARGUMENT…` runs MODULE in both, as torchrun would.

IMPORTS (by commas) and this process's own are there when it forks, which is most of the time that such a test takes.
Nothing may have been computed by then. Where one fails, the other is ended, and so is this one, with 1.
"""

from __future__ import annotations

import importlib
import os
import runpy
import signal
import socket
import sys
import traceback


def begin(rank: int, port: int, imports: list[str], module: str, arguments: list[str]) -> int:
    """Fork; return the number of the process, which runs the module and ends."""
    if child := os.fork():
        return child
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({name: str(value) for name, value in numbers.items()})
    os.environ.update({"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "tests"})
    sys.argv = [module, *arguments]
    if module in imports:  # it is run as a script, and its own imports are there
        del sys.modules[module]
    code = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main(imports: list[str], module: str, arguments: list[str]) -> None:
    """Run a module in two processes and wait for both."""
    for name in imports:
        importlib.import_module(name)
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    running = {begin(rank, port, imports, module, arguments) for rank in range(2)}

    def tell(number: int, frame: object) -> None:
        for child in running:
            os.kill(child, number)

    signal.signal(signal.SIGTERM, tell)
    failed = False
    while running:
        child, status = os.wait()
        running.discard(child)
        if status and not failed:
            failed = True
            tell(signal.SIGTERM, None)
    sys.exit(int(failed))


if __name__ == "__main__":
    main(sys.argv[1].split(","), sys.argv[2], sys.argv[3:])
