"""`sparsify train`"""

from __future__ import annotations

import shlex
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from sparsify import ranks
from sparsify.cli.afterwards import after
from sparsify.cli.common import MOST_SEEDS, STOPPED, TASKS, Sets, finite, guarded, one_of, parse_sets
from sparsify.cli.completing import Complete, recipes, words
from sparsify.cli.console import aside, is_quiet, out, say
from sparsify.errors import SparsifyError
from sparsify.recipe import Recipe
from sparsify.report.findings import findings

SCHEDULES = ("linear", "cosine", "constant_with_warmup")
NEEDS = ("accelerate", "datasets", "sklearn", "transformers")
INSTALL = "pip install 'sparsify-torch[train]'"
LENGTHS = {"question-answering": 384, "causal-lm": 512, "masked-lm": 512}
"""Task → `--max-length`, where that is not 128."""
METRICS = ("accuracy", "exact_match", "f1", "f1_macro", "perplexity", "spearman", "mse")
"""Those of the last line."""
EVERY = (*METRICS, "f1_weighted", "f1_binary", "matthews", "precision", "recall", "pearson", "loss")
PARTS = ("accuracy", "exact_match")
"""Shown as percentages."""
READS: dict[str, dict[str, int]] = {
    "text-classification": {"--label-column": 1, "--text-column": 2},
    "text-regression": {"--label-column": 1, "--text-column": 2},
    "image-classification": {"--label-column": 1, "--image-column": 1},
    "token-classification": {"--label-column": 1, "--text-column": 1},
    "question-answering": {},
    "causal-lm": {"--text-column": 1},
    "masked-lm": {"--text-column": 1},
}
"""Task → flag → how many columns it names."""
MOST = 10**9
"""Of whatever is counted or measured by a flag; nothing sensible is more."""

DATA = "csv, tsv, json lines, parquet, or a dataset: NAME, NAME:CONFIG, NAME@SPLIT; for images also class folders."


def _positive(value: float) -> float:
    if not 0 < value < MOST:
        raise typer.BadParameter(f"must be a number above 0 and below {MOST:.0e}, got {value}")
    return value


def _text(flag: str, metavar: str, text: str, complete: Complete | None = None) -> Any:
    return typer.Option(flag, metavar=metavar, help=text, autocompletion=complete)


def _number(flag: str, text: str, least: float = 1, most: float = MOST, metavar: str | None = None) -> Any:
    return typer.Option(flag, help=text, min=least, max=most, metavar=metavar, callback=_number_or_none)


def _number_or_none(value: float | None) -> float | None:
    return None if value is None else finite(value)


Task = Annotated[
    str,
    typer.Option(
        "--task",
        metavar="TASK",
        callback=one_of(*TASKS),
        help=f"{', '.join(TASKS)}.",
        autocompletion=words(*TASKS),
    ),
]
Rate = Annotated[float, typer.Option("--lr", callback=_positive, help="Highest learning rate (AdamW).")]
Epochs = Annotated[float, typer.Option("--epochs", callback=_positive, help="Passes over the training data.")]
Curve = Annotated[
    str,
    typer.Option(
        "--schedule",
        callback=one_of(*SCHEDULES),
        help=f"Of the learning rate: {', '.join(SCHEDULES)}.",
        autocompletion=words(*SCHEDULES),
    ),
]


@guarded
def train(
    task: Task,
    model: Annotated[str, _text("--model", "NAME_OR_DIR", "A model of transformers.")],
    train_data: Annotated[str, _text("--train", "FILE_OR_DATASET", DATA)],
    eval_data: Annotated[str, _text("--eval", "FILE_OR_DATASET", "Likewise, to evaluate on.")],
    out_dir: Annotated[Path, _text("--out", "DIR", "Where to write model, recipe and report.")],
    recipe: Annotated[
        str | None, _text("--recipe", "RECIPE", "By path or name; without one, training is dense.", recipes)
    ] = None,
    sets: Sets = None,
    teacher: Annotated[
        str | None, _text("--teacher", "NAME_OR_DIR", "The trained model that a recipe with `distill` learns from.")
    ] = None,
    teacher_cache: Annotated[
        str | None,
        _text("--teacher-cache", "DIR", "Where a `distill` with `cache` keeps the teacher's answers from run to run."),
    ] = None,
    calibration: Annotated[
        str | None,
        _text("--calibration", "FILE_OR_DATASET", "Rows on which a recipe measures which layers can go."),
    ] = None,
    epochs: Epochs = 3.0,
    batch_size: Annotated[int, _number("--batch-size", "Rows in a batch, on each device.")] = 32,
    accumulate: Annotated[int, _number("--accumulate", "Batches for one optimizer step.")] = 1,
    lr: Rate = 5e-5,
    schedule: Curve = "linear",
    warmup: Annotated[
        float, _number("--warmup", "Fraction of the steps in which the learning rate rises.", 0, 1)
    ] = 0.06,
    weight_decay: Annotated[float, _number("--weight-decay", "Of AdamW.", 0)] = 0.01,
    max_grad_norm: Annotated[float, _number("--max-grad-norm", "Gradients are clipped to it; 0: never.", 0)] = 1.0,
    max_length: Annotated[
        int | None,
        _number("--max-length", "Tokens after which a text is cut: 128; of questions 384, of language models 512.", 4),
    ] = None,
    stride: Annotated[
        int | None,
        _number("--stride", "Tokens that two windows of a context share; by default a third.", 0, metavar="TOKENS"),
    ] = None,
    seed: Annotated[int, _number("--seed", "For new weights, order of the data, dropout.", 0, MOST_SEEDS)] = 0,
    freeze: Annotated[
        list[str] | None,
        _text("--freeze", "SELECTOR", "Leave as it is: embeddings, a role, or modules by name; repeatable."),
    ] = None,
    label_column: Annotated[
        str | None, _text("--label-column", "NAME", "Where the label is; without a header, columns are 0, 1, …")
    ] = None,
    text_column: Annotated[
        list[str] | None, _text("--text-column", "NAME", "Where the text is; twice for a pair.")
    ] = None,
    image_column: Annotated[
        str | None, _text("--image-column", "NAME", "Where the image, or its file's name, is.")
    ] = None,
    eval_every: Annotated[int | None, _number("--eval-every", "By default every epoch.", metavar="STEPS")] = None,
    save_every: Annotated[
        int | None,
        _number("--save-every", "Steps between two checkpoints; by default an epoch.", metavar="STEPS"),
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="End with the best evaluation at the target sparsity, not with the last.")
    ] = False,
    metric: Annotated[
        str | None,
        _text(
            "--metric", "NAME", "What --best goes by, and is shown first; by default the task's first.", words(*EVERY)
        ),
    ] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16 where that is safe (autocast).")] = False,
    log_to: Annotated[
        list[str] | None,
        _text(
            "--log-to", "LOGGER", "tensorboard, wandb, mlflow, …; repeatable.", words("tensorboard", "wandb", "mlflow")
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last whole checkpoint in --out.")] = False,
    allow_changed_recipe: Annotated[
        bool,
        typer.Option("--allow-changed-recipe", help="With --resume: under another recipe, or for another --epochs."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew over an earlier run in --out.")] = False,
    keep_checkpoints: Annotated[
        bool, typer.Option("--keep-checkpoints", help="Do not delete them at the end.")
    ] = False,
    small: Annotated[
        bool, typer.Option("--compact", help="At the end, write the model without what is dead in it to DIR/compact.")
    ] = False,
    packed: Annotated[
        bool,
        typer.Option("--pack", help="At the end, store the model (or the compact one) small, in DIR/model.packed."),
    ] = False,
) -> None:
    """Train a model under a recipe on your data: a transformers folder, recipe.yaml and report.json come out."""
    if sets and recipe is None:
        raise typer.BadParameter("there is no --recipe whose variables it could set", param_hint="--set")
    if best and save_every:
        reason = "with --best, checkpoints are written at evaluations: use --eval-every"
        raise typer.BadParameter(reason, param_hint="--save-every")
    if resume and overwrite:
        raise typer.BadParameter("either --resume or --overwrite", param_hint="--resume")
    if allow_changed_recipe and not resume:
        raise typer.BadParameter("a new run has no recipe to change from: use it with --resume", param_hint="--resume")
    inputs = _inputs(task, label_column, text_column or [], image_column)
    loaded = Recipe.load(recipe, **parse_sets(sets)) if recipe is not None else None
    wanted = (*NEEDS, *(("safetensors", "zstandard") if packed else ()))
    missing = [name for name in wanted if find_spec(name) is None]
    if missing:
        raise SparsifyError(f"training needs {', '.join(missing)}: {INSTALL}")
    if int((installed := version("transformers")).partition(".")[0]) < 5:
        raise SparsifyError(
            f"training needs transformers 5 or later, not {installed} (the callback takes both): {INSTALL}"
        )
    from sparsify.train.keeper import Stopped
    from sparsify.train.run import run
    from sparsify.train.settings import Settings

    if stride is not None and task != "question-answering":
        raise typer.BadParameter("--stride is for --task question-answering")
    asked = Settings(
        task=task,
        model=model,
        train=train_data,
        eval=eval_data,
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        lr=lr,
        schedule=schedule,
        warmup=warmup,
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm,
        max_length=max_length or LENGTHS.get(task, 128),
        stride=stride,
        seed=seed,
        freeze=tuple(freeze or ()),
        label_column=label_column,
        input_columns=inputs,
        eval_every=eval_every,
        save_every=save_every,
        best=best,
        metric=metric,
        bf16=bf16,
        log_to=tuple(log_to or ()),
        keep_checkpoints=keep_checkpoints,
        teacher=teacher,
        teacher_cache=teacher_cache,
        calibration=calibration,
    )
    try:
        report = run(
            asked,
            loaded,
            out_dir,
            resume=resume,
            overwrite=overwrite,
            allow_changed_recipe=allow_changed_recipe,
            console=aside(),
        )
    except Stopped as stopped:
        if ranks.launched_as():
            raise typer.Exit(STOPPED) from None
        words = [word for word in sys.argv[1:] if word not in ("--resume", "--overwrite")]
        command = shlex.join(["sparsify", *words, "--resume"])
        say(f"stopped after step {stopped.step}; everything is saved. Go on with:\n  {command}", err=True)
        raise typer.Exit(STOPPED) from None
    if not ranks.launched_as():
        console = out()
        console.print(_summary(report, out_dir))
        for line in after(out_dir, small=small, packed=packed):
            console.print(line)


def _inputs(task: str, label: str | None, texts: list[str], image: str | None) -> tuple[str, ...]:
    """Return the input columns. A flag that the task does not read is wrong usage."""
    given = {
        "--label-column": [label] if label else [],
        "--text-column": texts,
        "--image-column": [image] if image else [],
    }
    for flag, names in given.items():
        most = READS[task].get(flag, 0)
        if len(names) > most:
            reason = f"is given {len(names)} times, at most {most} are read" if most else f"is not for {task}"
            if task == "question-answering":
                reason += ": its columns are question, context and answers"
            raise typer.BadParameter(reason, param_hint=flag)
        if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
            raise typer.BadParameter(f"{twice!r} is given twice", param_hint=flag)
    inputs = (*texts, *given["--image-column"])
    if label is not None and label in inputs:
        raise typer.BadParameter(f"{label!r} is an input, too", param_hint="--label-column")
    return inputs


def _summary(report: dict[str, Any], directory: Path) -> str:
    metrics, density, seconds = report["training"]["metrics"], report["density"], report["training"]["seconds"]
    asked = report["training"]["settings"]["metric"]
    found = {name: metrics[name] for name in dict.fromkeys((*filter(None, [asked]), *METRICS)) if name in metrics}
    shown = [f"{name} {value:.2%}" if name in PARTS else f"{name} {value:.4f}" for name, value in found.items()]
    lines = [f"{', '.join(shown)}; {seconds:.0f} s of training"]
    if report["recipe"]:
        targeted, model = density["targeted"]["sparsity"], density["model"]["sparsity"]
        lines.append(f"zeros: {targeted:.2%} of the targeted weights, {model:.2%} of the model")
    lines += [f"{name}: {sentence}" for name, sentence in findings(report)]
    lines.append(f"Written to {directory}/" + ("" if is_quiet() else f". Next: sparsify report {directory}"))
    return "\n".join(lines)
