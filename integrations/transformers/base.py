"""The base under adapters (PEFT): the Trainer saves adapters alone, so what a recipe prunes is saved beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparsify import Manager, PlanError, adapters, checkpoint, files

FOLDER = "base"
"""Where the base lies in `output_dir`; checkpoints before the last update name one of their own, which is not there."""

CONFIG = "adapter_config.json"


class Beside:
    """Saves the base of one training once it is as it will be, and has every adapter that is saved name its base."""

    def __init__(self, manager: Manager, args: Any) -> None:
        self.manager, self.folder = manager, Path(args.output_dir) / FOLDER
        self.saved = False

    def in_checkpoint(self, folder: Path, *, reached: bool) -> None:
        """Have the adapters in a checkpoint that was just written name the base that they were trained over.

        From the last update on that is what is saved in `output_dir`. Before it, no folder holds that base: loading
        such a checkpoint, other than to resume it, is an error, and not a dense model without a word.
        """
        final = reached and not adapters.trains_base(self.manager.model)
        if final:
            self.save()
        named = self.folder if final else folder / FOLDER
        for path in [folder / CONFIG, *folder.glob(f"*/{CONFIG}")]:
            if path.is_file():
                config = files.read_json(path)
                config |= adapters.naming(config, named)
                checkpoint.write_text(path, json.dumps(config, indent=2, sort_keys=True))

    def save(self) -> None:
        """Save the base, if that was not done."""
        if not self.saved:
            adapters.save_base(self.manager.model, self.folder)
            self.saved = not adapters.trains_base(self.manager.model)


def beside(manager: Manager, args: Any, *, below_target: bool) -> Beside | None:
    """Return what saves the base of an applied manager's model; None where nothing lies under adapters.

    Raises PlanError where a checkpoint that is less sparse could be the best one: its base would be gone. StateError
    where something else lies in the folder.
    """
    if not adapters.alters_base(manager.plan, manager.model):
        return None
    if args.load_best_model_at_end and below_target:
        raise PlanError(
            "best_below_target=True with adapters: the weights that are pruned after the best checkpoint are gone, for "
            "the Trainer saves adapters alone; leave it out, or merge the adapters before the training"
        )
    found = Beside(manager, args)
    if args.should_save:
        adapters.check_folder(manager.model, found.folder)
    return found
