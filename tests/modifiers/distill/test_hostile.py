"""`distill` where things go wrong, or otherwise than expected: exceptions, copies, memory, compiled layers, tuples."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import re
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sparsify import Manager, Recipe
from tests.modifiers.distill.cached import answered
from tests.modifiers.distill.students import apply, batch, bert, step
from tests.processes import in_two

PRUNE = "  - {type: prune, criterion: movement, sparsity: 0.5}\n"


def values(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def the_same(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


@pytest.mark.parametrize("cache", ["", ", cache: {}"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_teacher_that_raises(error: type[BaseException], cache: str) -> None:
    """The model stays sparse, can be saved, and the step can be made again."""
    ends = []
    for fails in (False, True):
        student, teacher = bert(), bert(seed=1)
        manager, optimizer = apply(student, f"logits: {{}}{cache}", PRUNE, teacher=teacher)
        for _ in range(2):
            step(manager, student, optimizer, batch())
        if fails:

            def fail(*_: Any) -> None:
                raise error("no")

            handle = teacher.bert.encoder.layer[1].register_forward_hook(fail)
            with pytest.raises(error):
                step(manager, student, optimizer, batch(5))
            handle.remove()
            for weight in manager.plan.targeted():
                assert int((weight.tensor == 0).sum()) > 0
            assert manager.state_dict()["clock"]["step"] == 2
        for _ in range(2):
            step(manager, student, optimizer, batch(5))
        assert manager.finalize().targeted.sparsity == pytest.approx(0.5, abs=0.01)
        ends.append(values(student))
    the_same(*ends)


@pytest.mark.parametrize("apart", [31, pytest.param(11, marks=pytest.mark.slow)])
@pytest.mark.parametrize("known", [False, True])
def test_ctrl_c_anywhere_in_on_loss(known: bool, apart: int) -> None:
    """At every 31st (or eleventh) line that runs; the step is made again, and nothing of the first attempt is left."""

    def train(stop: int) -> list[torch.Tensor] | None:
        student, teacher = bert(), bert(seed=1)
        manager, optimizer = apply(student, "logits: {}, cache: {}", PRUNE, teacher=teacher, steps=3)
        step(manager, student, optimizer, batch())
        inputs = batch(0 if known else 7)
        manager.on_step_begin()
        outputs = student(**inputs)
        lines = 0

        def trace(frame: Any, event: str, argument: Any) -> Any:
            nonlocal lines
            if "sparsify" not in frame.f_code.co_filename:
                return None
            lines += event == "line"
            if lines == stop:
                raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            manager.on_loss(outputs.loss, outputs, inputs)
        except KeyboardInterrupt:
            pass
        else:
            return None
        finally:
            sys.settrace(before)
        for _ in range(2):
            step(manager, student, optimizer, inputs)
        manager.finalize()
        return values(student)

    first, stop = train(1), 12
    assert first is not None
    while (end := train(stop)) is not None:
        the_same(first, end)
        stop += apart
    assert stop > 100


def test_copies_and_pickles_know_no_teacher() -> None:
    student, teacher = bert(), bert(seed=1)
    manager, optimizer = apply(student, "logits: {}, hidden: {}", PRUNE, teacher=teacher)
    step(manager, student, optimizer, batch())
    manager.on_step_begin()
    outputs = student(**batch())
    file = io.BytesIO()
    torch.save(student, file)
    assert len(file.getvalue()) < 1.2 * len(pickle.dumps(bert()))
    file.seek(0)
    others = [copy.deepcopy(student), pickle.loads(pickle.dumps(student)), torch.load(file, weights_only=False)]
    for other in (*others, copy.deepcopy(teacher)):
        other(**batch()).loss.backward()
    manager.on_loss(outputs.loss, outputs, batch()).backward()
    manager.on_before_optimizer_step()
    optimizer.step()
    manager.on_step_end()
    second, again = apply(others[0], "logits: {}, hidden: {}", PRUNE, teacher=copy.deepcopy(teacher), steps=2)
    for _ in range(2):
        step(second, others[0], again, batch())
    second.finalize()


@pytest.mark.parametrize("cache", ["", ", cache: {}", ", hidden: {}"])
@pytest.mark.parametrize("end", ["finalize", "detach"])
def test_nothing_is_kept_alive(cache: str, end: str) -> None:
    """Neither outputs after their step, nor the teacher after the training, though the manager lives on."""
    student, teacher = bert(), bert(seed=1)
    manager, optimizer = apply(student, f"logits: {{}}{cache}", teacher=teacher, steps=2)
    for number in range(2):
        manager.on_step_begin()
        optimizer.zero_grad()
        outputs = student(**batch(number))
        manager.on_loss(outputs.loss, outputs, batch(number)).backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()
        logits = weakref.ref(outputs.logits)
        del outputs
        gc.collect()
        assert logits() is None
    alive = weakref.ref(teacher)
    del teacher
    gc.collect()
    assert alive() is not None
    getattr(manager, end)()
    gc.collect()
    assert alive() is None
    if end == "finalize":
        assert manager.state_dict()["modifiers"]["distill"]["losses"] == 2


def test_a_copy_of_the_model_stays_in_the_state() -> None:
    student = bert()
    first = copy.deepcopy(student.state_dict())
    manager, optimizer = apply(student, "logits: {}, teacher: self", steps=1)
    step(manager, student, optimizer, batch())
    manager.finalize()
    kept = manager.state_dict()["modifiers"]["distill"]["weights"]
    assert all(torch.equal(first[name], kept[name]) for name in first)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, of such layers
def test_layers_that_were_compiled_by_themselves() -> None:
    """Before `apply`, and run: their hidden states are seen, and are those of the model as it is."""
    ends = []
    for compiled in (False, True):
        student, teacher = bert(), bert(seed=1)
        if compiled:
            torch._dynamo.reset()
            for index, layer in enumerate(student.bert.encoder.layer):
                student.bert.encoder.layer[index] = torch.compile(layer, backend=lambda graph, _: graph)
            with torch.no_grad():
                student(**batch())
        manager, optimizer = apply(student, "logits: {}, hidden: {layers: [[1, 0]]}", teacher=teacher, steps=2)
        losses = [float(step(manager, student, optimizer, batch(number))) for number in range(2)]
        manager.finalize()
        ends.append(losses)
    assert ends[1] == pytest.approx(ends[0], rel=1e-5)


@pytest.mark.parametrize("kind", ["SequenceClassification", "TokenClassification", "QuestionAnswering"])
def test_models_that_return_tuples(kind: str) -> None:
    """With `return_dict=False` the two heads of question answering are found by their places."""
    losses = []
    for mine, theirs in ((True, True), (False, True), (True, False), (False, False)):
        labels = 2 if kind == "QuestionAnswering" else 3
        student, teacher = bert(kind, num_labels=labels), bert(kind, num_labels=labels, seed=1)
        student.config.return_dict, teacher.config.return_dict = mine, theirs
        inputs = answered() if kind == "QuestionAnswering" else batch()
        if kind == "TokenClassification":
            inputs["labels"] = inputs["input_ids"] % 3
        manager, optimizer = apply(student, "logits: {}, hidden: {}", teacher=teacher, steps=1)
        losses.append(float(step(manager, student, optimizer, inputs, lambda outputs: outputs[0])))
        manager.finalize()
    assert len(set(losses)) == 1


TWO = """
version: 1
stages:
  - name: one
    length: 3
    modifiers:
      - {type: prune, criterion: movement, sparsity: 0.5}
      - {type: distill, teacher: self, logits: {}, begin: 1CACHE}
  - name: two
    modifiers:
      - {type: prune, criterion: existing}
      - {type: distill, teacher: self, logits: {temperature: 2}CACHE}
      - {type: distill, logits: {}, hidden: {}, begin: 2}
"""


@pytest.mark.parametrize("cache", ["", ", cache: {}"])
def test_stages_of_two_teachers_resumed_at_every_step(cache: str) -> None:
    def start(seed: int) -> tuple[Any, torch.optim.Optimizer, Manager]:
        student = bert(seed=seed)
        optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
        made = Recipe.parse(TWO.replace("CACHE", cache))
        return student, optimizer, Manager(made).apply(student, optimizer, total_steps=7, teacher=bert(seed=1))

    student, optimizer, manager = start(0)
    saved = []
    for number in range(7):
        saved.append(copy.deepcopy([part.state_dict() for part in (student, optimizer, manager)]))
        step(manager, student, optimizer, batch(number % 3))
    manager.finalize()
    for stop in range(7):
        other = start(9)
        for part, state in zip(other, saved[stop], strict=True):
            part.load_state_dict(state)
        for number in range(stop, 7):
            step(other[2], other[0], other[1], batch(number % 3))
        other[2].finalize()
        the_same(values(student), values(other[0]))


def test_two_processes_fill_one_cache(tmp_path: Path) -> None:
    """Each asks the teacher about its part of the data, and has a file; the next run begins with both."""
    done = in_two("ddp_cache", str(tmp_path))
    found = re.findall(r"rank \d cached: agrees (\w+)", done.stdout)
    assert found == ["True"] * 2, done.stderr
    again = re.findall(r"again: {'misses': (\d+), 'hits': (\d+), 'samples': (\d+)}", done.stdout)
    assert again == [("0", "192", "64")] * 2
    assert len(list(tmp_path.glob("teacher-*.safetensors"))) == 2


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning")  # what peft asks of models
@pytest.mark.parametrize("who", ["the adapted model", "the model within", "the teacher"])
def test_adapters(who: str) -> None:
    """LoRA on the student or the teacher: the loss is that of the models as they are, and adapters are trained."""
    peft = pytest.importorskip("peft")

    def adapted(model: Any) -> Any:
        torch.manual_seed(0)
        made = peft.get_peft_model(model, peft.LoraConfig(target_modules=["query"], r=2, task_type="SEQ_CLS"))
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if "lora_B" in name:
                    parameter.normal_()
        return made.eval()

    student, teacher, inputs = bert(), bert(seed=1), batch()
    if who == "the teacher":
        teacher = adapted(teacher)
    else:
        student = adapted(student)
    given = student.base_model.model if who == "the model within" else student
    with torch.no_grad():
        one, other = student(**inputs), teacher(**inputs)
        logs = one.logits.log_softmax(-1), other.logits.log_softmax(-1)
        wanted = float(one.loss + nn.functional.kl_div(*logs, log_target=True, reduction="batchmean"))
    before = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
    manager, optimizer = apply(given, "logits: {}, hidden: {weight: 1.0e-9}", teacher=teacher, steps=1)
    assert float(step(manager, student, optimizer, inputs)) == pytest.approx(wanted, rel=1e-4)
    manager.finalize()
    changed = [name for name, parameter in student.named_parameters() if not torch.equal(parameter, before[name])]
    assert changed
    assert who == "the teacher" or all("lora" in name or "classifier" in name for name in changed)


@pytest.mark.parametrize("criterion", ["magnitude", "movement", "hard-concrete"])
def test_an_evaluation_between_two_micro_batches_changes_nothing(criterion: str) -> None:
    """What earlier micro-batches gave to projections and scores stays; gates of the step are out of the model meanwhile."""
    more = f"  - {{type: prune, criterion: {criterion}, scope: global, sparsity: 0.5, window: {{begin: 0, end: 4}}}}\n"

    def train(looked: bool) -> list[torch.Tensor]:
        student = bert()
        manager, optimizer = apply(
            student, "logits: {}, hidden: {loss: mse}", more, steps=6, teacher=bert(seed=1, hidden_size=24)
        )
        for number in range(6):
            optimizer.zero_grad()
            for part in range(3):
                manager.on_step_begin()
                outputs = student(**batch(3 * number + part))
                manager.on_loss(outputs.loss, outputs).backward()
                if looked and part < 2:
                    with manager.sparse_copy(), torch.no_grad():
                        student(**batch(99))
                        resting = student.state_dict()  # without gates of the step, at any moment
                        assert all(torch.equal(resting[name], p) for name, p in student.named_parameters())
            manager.on_before_optimizer_step()
            optimizer.step()
            manager.on_step_end()
        projections = manager.state_dict()["modifiers"]["distill"]["projections"]["hidden"]["matrices"]
        manager.finalize()
        return [*(parameter.detach().clone() for parameter in student.parameters()), *projections.values()]

    for one, other in zip(train(False), train(True), strict=True):
        assert torch.equal(one, other)
