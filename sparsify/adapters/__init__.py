"""Adapters (PEFT) over a base that a recipe prunes: the base saved beside them, and merged with its zeros kept."""

from sparsify.adapters.merging import merge
from sparsify.adapters.saving import alters_base, base_state_dict, check_folder, naming, save_base, trains_base

__all__ = ["alters_base", "base_state_dict", "check_folder", "merge", "naming", "save_base", "trains_base"]
