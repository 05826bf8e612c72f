"""`distill` in a loop of one's own: which positions count, whose gradients, who is left alone."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsify import HookError, Manager, Plan, PlanError, StateError
from tests.modifiers.distill.students import apply, batch, bert, recipe, step
from tests.processes import in_two


def kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T²·KL, the mean over rows, as torch writes it."""
    log_s, log_t = F.log_softmax(student / temperature, -1), F.log_softmax(teacher / temperature, -1)
    return F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(-1).mean() * temperature**2


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def the_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def reference(student: nn.Module, loss_of: Any) -> dict[str, Tensor]:
    """Return the gradients of a loss that is written by hand."""
    other = copy.deepcopy(student)
    loss_of(other).backward()
    return gradients(other)


# ---------------------------------------------------------------------- which positions count


@pytest.mark.parametrize("hardness", [None, 0.3, 1.0])
def test_classification(hardness: float | None) -> None:
    student, teacher, inputs = bert(), bert(seed=1), batch()

    def by_hand(model: Any) -> Tensor:
        outputs, taught = model(**inputs), teacher(**inputs)
        soft = kd(outputs.logits, taught.logits.detach(), 2.0)
        return outputs.loss + 0.7 * soft if hardness is None else (1 - hardness) * outputs.loss + hardness * 0.7 * soft

    wanted = reference(student, by_hand)
    hard = "" if hardness is None else f", hardness: {hardness}"
    manager, optimizer = apply(student, f"logits: {{temperature: 2, weight: 0.7}}{hard}", teacher=teacher)
    step(manager, student, optimizer, inputs)
    the_same(gradients(student), wanted)


def test_tokens_that_are_padding_or_unlabelled_are_left_out() -> None:
    labels = torch.tensor([[0, 1, 2, 0, -100, 1], [1, 1, 0, 2, -100, -100], [0] * 6, [2, 1, 0, -100, -100, -100]])
    student, teacher, inputs = bert("TokenClassification"), bert("TokenClassification", seed=1), batch(labels=labels)

    def by_hand(model: Any) -> Tensor:
        outputs, taught = model(**inputs), teacher(**inputs)
        valid = labels != -100
        return outputs.loss + kd(outputs.logits[valid], taught.logits.detach()[valid], 3.0)

    wanted = reference(student, by_hand)
    manager, optimizer = apply(student, "logits: {temperature: 3}", teacher=teacher)
    step(manager, student, optimizer, inputs)
    the_same(gradients(student), wanted)


def test_without_labels_padding_alone_is_left_out() -> None:
    student, teacher = bert("TokenClassification"), bert("TokenClassification", seed=1)
    inputs = {name: value for name, value in batch().items() if name != "labels"}

    def by_hand(model: Any) -> Tensor:
        outputs, taught = model(**inputs), teacher(**inputs)
        valid = inputs["attention_mask"].bool()
        return outputs.logits.square().mean() + kd(outputs.logits[valid], taught.logits.detach()[valid], 1.0)

    wanted = reference(student, by_hand)
    manager, optimizer = apply(student, "logits: {}", teacher=teacher)
    step(manager, student, optimizer, inputs, lambda outputs: outputs.logits.square().mean())
    the_same(gradients(student), wanted)


def test_question_answering_has_two_heads_over_what_is_no_padding() -> None:
    student, teacher = bert("QuestionAnswering", num_labels=2), bert("QuestionAnswering", seed=1, num_labels=2)
    spans = {"start_positions": torch.tensor([0, 1, 2, 0]), "end_positions": torch.tensor([3, 2, 5, 1])}
    inputs = batch(**spans)

    def by_hand(model: Any) -> Tensor:
        outputs, taught = model(**inputs), teacher(**inputs)
        parts = []
        for row in range(4):
            real = inputs["attention_mask"][row].bool()
            for name in ("start_logits", "end_logits"):
                parts.append(kd(outputs[name][row][real], taught[name][row][real].detach(), 2.0))
        return outputs.loss + torch.stack(parts).mean()

    wanted = reference(student, by_hand)
    manager, optimizer = apply(student, "logits: {temperature: 2}", teacher=teacher)
    step(manager, student, optimizer, inputs)
    the_same(gradients(student), wanted)


def test_a_causal_model_is_taught_where_the_next_token_counts() -> None:
    student, teacher, inputs = gpt(0), gpt(1), batch()
    inputs["labels"] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)

    def by_hand(model: Any) -> Tensor:
        outputs, taught = model(**inputs), teacher(**inputs)
        valid = inputs["labels"][:, 1:] != -100
        return outputs.loss + kd(outputs.logits[:, :-1][valid], taught.logits[:, :-1][valid].detach(), 1.0)

    wanted = reference(student, by_hand)
    manager, optimizer = apply(student, "logits: {}", teacher=teacher)
    step(manager, student, optimizer, inputs)
    the_same(gradients(student), wanted)


def test_masked_language_models_are_taught_where_tokens_are_masked() -> None:
    student, teacher, inputs = bert("MaskedLM"), bert("MaskedLM", seed=1), batch()
    inputs["labels"] = torch.full((4, 6), -100)
    inputs["labels"][:, 1] = 7

    def by_hand(model: Any) -> Tensor:
        outputs, taught = model(**inputs), teacher(**inputs)
        return outputs.loss + kd(outputs.logits[:, 1], taught.logits[:, 1].detach(), 1.0)

    wanted = reference(student, by_hand)
    manager, optimizer = apply(student, "logits: {}", teacher=teacher)
    step(manager, student, optimizer, inputs)
    the_same(gradients(student), wanted)


def test_hidden_states_without_their_padding() -> None:
    student, teacher, inputs = bert(), bert(seed=1), batch()

    def by_hand(model: Any) -> Tensor:
        outputs, taught = (m(**inputs, output_hidden_states=True) for m in (model, teacher))
        real = inputs["attention_mask"].bool()
        pairs = zip(outputs.hidden_states[1:], taught.hidden_states[1:], strict=True)
        return outputs.loss + 0.5 * sum(
            (s[real] - t[real].detach()).square().sum() / t[real].detach().square().sum() for s, t in pairs
        )

    wanted = reference(student, by_hand)
    manager, optimizer = apply(student, "hidden: {loss: squarehead, weight: 0.5}", teacher=teacher)
    step(manager, student, optimizer, inputs)
    the_same(gradients(student), wanted)


@pytest.mark.parametrize("loss", ["mse", "cosine"])
def test_other_losses_of_hidden_states_and_chosen_layers(loss: str) -> None:
    student, teacher, inputs = bert(), bert(seed=1, layers=3), batch()

    def by_hand(model: Any) -> Tensor:
        outputs, taught = (m(**inputs, output_hidden_states=True) for m in (model, teacher))
        real = inputs["attention_mask"].bool()
        s, t = outputs.hidden_states[2][real], taught.hidden_states[3][real].detach()
        each = (s - t).square().mean(-1) if loss == "mse" else 1 - F.cosine_similarity(s, t, dim=-1)
        return outputs.loss + each.mean()

    wanted = reference(student, by_hand)
    manager, optimizer = apply(student, f"hidden: {{loss: {loss}, layers: [[1, 2]]}}", teacher=teacher)
    step(manager, student, optimizer, inputs)
    the_same(gradients(student), wanted)


def test_attention_maps_without_rows_of_padding() -> None:
    eager = {"attn_implementation": "eager"}
    student, teacher, inputs = bert(**eager), bert(seed=1, **eager), batch()

    def by_hand(model: Any) -> Tensor:
        outputs, taught = (m(**inputs, output_attentions=True) for m in (model, teacher))
        real = inputs["attention_mask"].bool()
        total = outputs.loss
        for s, t in zip(outputs.attentions, taught.attentions, strict=True):
            rows = real[:, None].expand(s.shape[:3])
            total = total + (s - t.detach()).square().mean(-1)[rows].mean()
        return total

    wanted = reference(student, by_hand)
    manager, optimizer = apply(student, "attention: {}", teacher=teacher)
    step(manager, student, optimizer, inputs)
    the_same(gradients(student), wanted)


# ---------------------------------------------------------------------- accumulation, scale, weights over time


def gpt(seed: int = 0, vocab_size: int = 40) -> Any:
    """Return a small causal language model."""
    import transformers

    torch.manual_seed(seed)
    sizes = {"n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": vocab_size, "n_positions": 16}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **dropout))


def test_micro_batches_weigh_as_in_the_task_loss() -> None:
    """With num_items_in_batch (as the Trainer gives it) two micro-batches are one batch, whatever their lengths."""
    student, teacher, whole = gpt(), gpt(1), batch()
    labels = whole["labels"] = whole["input_ids"].masked_fill(whole["attention_mask"] == 0, -100)
    valid = labels[:, 1:] != -100

    def by_hand(model: Any) -> Tensor:
        outputs, taught = model(**whole), teacher(**whole)
        return outputs.loss + kd(outputs.logits[:, :-1][valid], taught.logits[:, :-1][valid].detach(), 1.0)

    wanted = reference(student, by_hand)
    manager, optimizer = apply(student, "logits: {}", teacher=teacher)
    manager.on_step_begin()
    optimizer.zero_grad()
    for part in (slice(0, 1), slice(1, 4)):
        inputs = {name: value[part] for name, value in whole.items()} | {"num_items_in_batch": valid.sum()}
        outputs = student(**inputs)
        manager.on_loss(outputs.loss, outputs).backward()
    manager.on_before_optimizer_step()
    the_same(gradients(student), wanted)
    optimizer.step()
    manager.on_step_end()


def test_a_model_that_ignores_the_number_of_items_has_a_mean() -> None:
    """BERT's own loss is a mean whatever it is told, so that what is added to it is one, too."""
    student, teacher, inputs = bert(), bert(seed=1), batch()
    wanted = float(step(*_pair(student, teacher), inputs))
    student = bert()
    assert float(step(*_pair(student, teacher), inputs | {"num_items_in_batch": torch.tensor(40)})) == wanted


def _pair(student: Any, teacher: Any) -> tuple[Manager, Any, Any]:
    manager, optimizer = apply(student, "logits: {}", teacher=teacher)
    return manager, student, optimizer


def test_a_mean_is_divided_by_the_loop() -> None:
    student, teacher, whole = bert(), bert(seed=1), batch()

    def by_hand(model: Any) -> Tensor:
        outputs, taught = model(**whole), teacher(**whole)
        return outputs.loss + kd(outputs.logits, taught.logits.detach(), 1.0)

    wanted = reference(student, by_hand)
    manager, optimizer = apply(student, "logits: {}", teacher=teacher)
    manager.on_step_begin()
    optimizer.zero_grad()
    for part in (slice(0, 2), slice(2, 4)):
        inputs = {name: value[part] for name, value in whole.items()}
        outputs = student(**inputs)
        (manager.on_loss(outputs.loss, outputs, inputs) / 2).backward()
    manager.on_before_optimizer_step()
    the_same(gradients(student), wanted)


def test_weights_and_windows_change_with_the_steps() -> None:
    student, teacher, inputs = bert(), bert(seed=1), batch()
    body = "logits: {weight: {from: 1, to: 0, curve: linear}}, begin: 1, end: 3"
    manager, optimizer = apply(student, body, teacher=teacher, lr=0.0)
    with torch.no_grad():
        outputs, taught = student(**inputs), teacher(**inputs)
    soft, task = float(kd(outputs.logits, taught.logits, 1.0)), float(outputs.loss)
    found = [float(step(manager, student, optimizer, inputs)) for _ in range(4)]
    assert found == pytest.approx([task, task + soft, task + soft / 2, task], rel=1e-5)


# ---------------------------------------------------------------------- projections


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_a_projection_is_learned_beside_the_model(scale: float) -> None:
    """Its gradient is unscaled like the others; it is in no optimizer of the user's, and no checkpoint."""
    student, teacher, inputs = bert(), bert(seed=1, hidden_size=24), batch()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    body = "hidden: {learning_rate: 1e-2}"
    manager = Manager(recipe(body)).apply(student, optimizer, total_steps=4, scaler=scaler, teacher=teacher)
    before = {
        name: each["matrices"] for name, each in manager.state_dict()["modifiers"]["distill"]["projections"].items()
    }
    values = []
    for _ in range(4):
        manager.on_step_begin()
        optimizer.zero_grad()
        outputs = student(**inputs)
        loss = manager.on_loss(outputs.loss, outputs, inputs)
        scaler.scale(loss).backward()
        manager.on_before_optimizer_step()
        scaler.step(optimizer)
        scaler.update()
        manager.on_step_end()
        values.append(float(loss.detach()))
    after = manager.state_dict()["modifiers"]["distill"]["projections"]["hidden"]
    assert values[-1] < values[0]
    for name, matrix in after["matrices"].items():
        assert matrix.shape == (24, 16)
        assert not torch.equal(matrix, before["hidden"][name])
        assert float(after["moments"][name]["exp_avg"].abs().max()) < 1.0, "the gradients were unscaled"
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in student.parameters()}
    assert not [name for name in student.state_dict() if "proj" in name]


# ---------------------------------------------------------------------- the teacher


def test_the_teacher_is_left_alone() -> None:
    student, teacher = bert(hidden_dropout_prob=0.5), bert(seed=1, hidden_dropout_prob=0.5)
    teacher.train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    manager, optimizer = apply(student, "logits: {}, hidden: {}", teacher=teacher)
    for _ in range(3):
        teacher.train()  # a loop that calls train() on everything
        step(manager, student, optimizer, batch())
        assert not teacher.training, "in evaluation mode: no dropout"
    assert all(p.grad is None for p in teacher.parameters())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])


def test_nobody_asks_the_teacher_in_evaluation() -> None:
    student, teacher = bert(), bert(seed=1)
    asked = []
    teacher.register_forward_hook(lambda *_: asked.append(1))
    manager, optimizer = apply(student, "logits: {}", teacher=teacher)
    step(manager, student, optimizer, batch())
    assert len(asked) == 1
    student.eval()
    with torch.no_grad():
        outputs = student(**batch())
        assert manager.on_loss(outputs.loss, outputs) is outputs.loss
    assert len(asked) == 1


def test_self_is_the_model_as_it_was() -> None:
    """The copy is taken before anything changes: pruning at step 0 does not reach it."""
    student, inputs = bert(), batch()
    dense = copy.deepcopy(student)
    more = "  - {type: prune, sparsity: {to: 0.5, curve: one-shot}, window: {begin: 0}}\n"
    wanted = reference(dense, lambda model: model(**inputs).loss)
    assert wanted
    manager, optimizer = apply(student, "logits: {}, hardness: 1, teacher: self", more, lr=0.0)
    assert manager.sparsity == 0.5
    loss = step(manager, student, optimizer, inputs)
    with torch.no_grad():
        assert float(loss) == pytest.approx(float(kd(student(**inputs).logits, dense(**inputs).logits, 1.0)), rel=1e-4)


def test_self_with_a_new_head_is_refused(tmp_path: Any) -> None:
    import transformers

    bert().bert.save_pretrained(tmp_path)
    fresh = transformers.BertForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    with pytest.raises(PlanError, match=r"the model itself cannot be the teacher: .* is new, with random weights"):
        Plan.of(recipe("logits: {}, teacher: self"), fresh, total_steps=4)


def test_a_teacher_by_folder(tmp_path: Any) -> None:
    teacher, inputs = bert(seed=1), batch()
    teacher.save_pretrained(tmp_path)
    losses = []
    for given in (teacher, tmp_path, str(tmp_path)):
        student = bert()
        manager, optimizer = apply(student, "logits: {}, hidden: {}", teacher=given)
        losses.append(float(step(manager, student, optimizer, inputs)))
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("the student", r"shares weights with the model that is trained; write `teacher: self`"),
        ("a part of it", r"shares weights with the model that is trained"),
        ("other tokens", r"teacher reads other tokens than the model \(vocab_size 50, not 40\)"),
        ("other labels", r"teacher has the labels .*'no'.*, the model .*: they must be the same, in this order"),
        ("nothing", r"the recipe needs 'teacher' .*: give it as apply\(…, teacher=…\)"),
        ("a number", r"teacher must be a module, a folder, or the name of a model, got a int"),
        ("no folder", r"no such folder"),
        ("unknown layers", r"the teacher has no layers: nothing repeats in it"),
    ],
)
def test_a_teacher_that_does_not_fit(given: str, message: str) -> None:
    student = bert()
    teacher = {
        "the student": student,
        "a part of it": nn.Sequential(student.bert),
        "other tokens": bert(vocab_size=50),
        "other labels": bert(id2label={0: "yes", 1: "no", 2: "perhaps"}),
        "nothing": None,
        "a number": 3,
        "no folder": "./nowhere",
        "unknown layers": nn.Linear(3, 3),
    }[given]
    body = "hidden: {}" if given == "unknown layers" else "logits: {}"
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(PlanError, match=message):
        apply(student, body, teacher=teacher)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert not student._forward_hooks
    assert not student._forward_pre_hooks


# ---------------------------------------------------------------------- what goes wrong in loops


def test_a_loop_that_forgets_on_loss_is_told_before_the_first_step() -> None:
    student, teacher, inputs = bert(), bert(seed=1), batch()
    manager, _ = apply(student, "logits: {}", teacher=teacher)
    manager.on_step_begin()
    student(**inputs).loss.backward()
    with pytest.raises(HookError, match=r"on_loss\(\) was not called in this step"):
        manager.on_before_optimizer_step()


def test_a_loss_that_nobody_trains_is_noticed() -> None:
    student, teacher, inputs = bert(), bert(seed=1), batch()
    manager, _ = apply(student, "logits: {}", teacher=teacher)
    manager.on_step_begin()
    outputs = student(**inputs)
    manager.on_loss(outputs.loss, outputs, inputs)
    outputs.loss.backward()
    with pytest.raises(HookError, match=r"backward\(\) was not called on the loss that on_loss\(\) returned"):
        manager.on_before_optimizer_step()


@pytest.mark.parametrize("body", ["attention: {}", "logits: {}, attention: {}"])
def test_a_term_that_teaches_nothing_is_noticed(body: str) -> None:
    """Reentrant checkpointing hands on what comes out of layers, but no gradient to what is within them."""
    eager: dict[str, Any] = {"attn_implementation": "eager"}
    student, teacher, inputs = bert(**eager), bert(seed=1, **eager), batch()
    student.train()
    _checkpoint(student, reentrant=True)
    student.enable_input_require_grads()
    manager, _ = apply(student, body, teacher=teacher)
    manager.on_step_begin()
    outputs = student(**inputs)
    with pytest.raises(
        HookError, match=r"attention has no gradient: .*reentrant gradient checkpointing \(use_reentrant=F"
    ):
        manager.on_loss(outputs.loss, outputs, inputs)
    frozen, inputs = bert(), batch()
    frozen.bert.encoder.requires_grad_(False)
    frozen.bert.embeddings.requires_grad_(False)
    manager, _ = apply(frozen, "logits: {}, hidden: {}", teacher=teacher)
    manager.on_step_begin()
    outputs = frozen(**inputs)
    with pytest.raises(HookError, match=r"hidden has no gradient: what it compares is frozen"):
        manager.on_loss(outputs.loss, outputs, inputs)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(reentrant: bool) -> None:
    """What a backward computes again is neither recorded nor counted."""
    found = []
    for on in (False, True):
        student, teacher = bert(), bert(seed=1)
        student.train()
        if on:
            _checkpoint(student, reentrant=reentrant)
            student.enable_input_require_grads()
        manager, optimizer = apply(student, "logits: {}, hidden: {}", teacher=teacher, steps=2)
        for number in range(2):
            step(manager, student, optimizer, batch(number))
        found.append(gradients(student))
        assert manager._runs[0].report()["losses"] == 2
    the_same(found[1], found[0])


def _checkpoint(model: Any, *, reentrant: bool) -> None:
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})


def test_on_loss_without_a_forward() -> None:
    student, teacher = bert(), bert(seed=1)
    manager, _ = apply(student, "logits: {}", teacher=teacher)
    manager.on_step_begin()
    with pytest.raises(HookError, match=r"on_loss\(\) without a forward of the model before it"):
        manager.on_loss(torch.ones((), requires_grad=True))


def test_logits_of_another_shape() -> None:
    student, teacher = nn.Linear(4, 3), nn.Linear(4, 5)
    manager, _ = apply(student, "logits: {}", teacher=teacher)
    manager.on_step_begin()
    outputs = student(torch.randn(2, 4))
    with pytest.raises(HookError, match=r"the model's logits are \[2, 3\], the teacher's \[2, 5\]"):
        manager.on_loss(outputs.mean(), outputs)


def test_a_plain_module_needs_no_transformers() -> None:
    student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
    inputs = torch.randn(6, 4)

    def by_hand(model: nn.Module) -> Tensor:
        outputs = model(inputs)
        return outputs.square().mean() + kd(outputs, teacher(inputs).detach(), 1.0)

    wanted = reference(student, by_hand)
    manager, optimizer = apply(student, "logits: {}", teacher=teacher)
    manager.on_step_begin()
    optimizer.zero_grad()
    outputs = student(inputs)
    manager.on_loss(outputs.square().mean(), outputs).backward()
    manager.on_before_optimizer_step()
    the_same(gradients(student), wanted)


def test_hooks_leave_with_the_training() -> None:
    student, teacher = bert(), bert(seed=1)
    manager, optimizer = apply(student, "logits: {}, hidden: {}", teacher=teacher, steps=1)
    copied = copy.deepcopy(student)
    copied(**batch())
    step(manager, student, optimizer, batch())
    manager.finalize()
    for model in (student, teacher):
        for module in model.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks


@pytest.mark.parametrize("stop", [1, 3])
@pytest.mark.parametrize("own", [False, True])
def test_a_resumed_training_ends_with_the_same_bits(own: bool, stop: int) -> None:
    """Projections, the copy of the model, and the means of the report, too."""
    body = "logits: {temperature: 2}, hidden: {}" + (", teacher: self" if own else "")
    more = "  - {type: prune, criterion: movement, sparsity: 0.5}\n"

    def start(seed: int) -> tuple[Any, Manager, Any]:
        student = bert(seed=seed)
        given = {} if own else {"teacher": bert(seed=1, hidden_size=24)}
        manager, optimizer = apply(student, body, more, steps=5, **given)
        return student, manager, optimizer

    student, manager, optimizer = start(0)
    for number in range(5):
        if number == stop:
            saved = [copy.deepcopy(part.state_dict()) for part in (student, optimizer, manager)]
        step(manager, student, optimizer, batch(number))
    other, second, again = start(7 if own else 0)  # another start: the copy that counts is the one in the state
    for part, state in zip((other, again, second), saved, strict=True):
        part.load_state_dict(state)
    for number in range(stop, 5):
        step(second, other, again, batch(number))
    for name, value in student.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert manager.state_dict()["modifiers"]["distill"]["sums"] == second.state_dict()["modifiers"]["distill"]["sums"]


def test_another_teacher_is_refused_on_resume() -> None:
    student = bert()
    manager, optimizer = apply(student, "logits: {}", teacher=bert(seed=1))
    step(manager, student, optimizer, batch())
    other = bert()
    second, _ = apply(other, "logits: {}", teacher=bert(seed=2))
    other.load_state_dict(student.state_dict())
    with pytest.raises(StateError, match="the training was begun with another teacher"):
        second.load_state_dict(manager.state_dict())


def test_the_report_says_what_was_distilled() -> None:
    from sparsify.modifiers.distill import Distill

    student = bert()
    manager, optimizer = apply(student, "terms: [{type: logits}, {type: logits, loss: cosine}]", teacher=bert(seed=1))
    for number in range(4):
        step(manager, student, optimizer, batch(number))
    found = manager._runs[0].report()
    assert found["losses"] == 4
    assert set(found["distilled"]) == {"logits", "logits-2"}
    assert "4 losses with distillation; means of the terms: logits 0." in Distill.findings(found)[0]


def test_what_is_distilled_twice_from_two_teachers() -> None:
    """Two distillations share a step; each knows its own teacher."""
    student, one, two, inputs = bert(), bert(seed=1), bert(seed=2), batch()

    def by_hand(model: Any) -> Tensor:
        outputs = model(**inputs)
        return outputs.loss + sum(kd(outputs.logits, each(**inputs).logits.detach(), 1.0) for each in (one, two))

    wanted = reference(student, by_hand)
    more = "  - {type: distill, teacher: other, logits: {}}\n"
    manager, optimizer = apply(student, "logits: {}", more, teacher=one, other=two)
    step(manager, student, optimizer, inputs)
    the_same(gradients(student), wanted)


# ---------------------------------------------------------------------- the plan


@pytest.mark.parametrize(
    ("body", "model", "message"),
    [
        (
            "hidden: {}",
            "plain",
            r"Linear has no layers, as nothing repeats in it: only logits can be distilled",
        ),
        ("attention: {}", "sdpa", r"with sdpa attention there are no attention maps: load the model with attn_impl"),
        ("hidden: {layers: [[5, 1]]}", "bert", r"the model has no layer 5 \(it has 0, 1, by their original numbers\)"),
        ("logits: {}", "regression", r"predicts one number, which is no distribution: write `loss: mse`"),
        ("logits: {}, begin: 90, end: 95", "bert", r"lies beyond the stage's 4 steps"),
    ],
)
def test_what_cannot_be_distilled_is_said_in_the_plan(body: str, model: str, message: str) -> None:
    models = {
        "plain": lambda: nn.Linear(2, 2),
        "sdpa": lambda: bert(attn_implementation="sdpa"),
        "bert": bert,
        "regression": lambda: bert(num_labels=1),
    }
    with pytest.raises(PlanError, match=message):
        Plan.of(recipe(body), models[model](), total_steps=4)


def test_the_plan_shows_it() -> None:
    text = str(
        Plan.of(
            recipe("logits: {temperature: 2}, hidden: {weight: 0.5}, hardness: 0.9, end: 50%"), bert(), total_steps=8
        )
    )
    assert "distill: teacher teacher, logits kl at temperature 2, weight 1, hidden mse, weight 0.5" in text
    assert "hardness 0.9; steps 0 to 4" in text


def test_the_timeline_shows_when() -> None:
    from sparsify.report.timeline import in_text, timeline

    (line, *_) = in_text(timeline(recipe("logits: {}, begin: 25%, end: 50%"), total=100), width=8)
    assert line == "distill |··──····| (distils)"


def test_two_processes_learn_what_one_does() -> None:
    """Under DDP, projections too: they are in no module that DDP knows."""
    done = in_two("ddp_distill")
    lines = re.findall(r"rank \d: weights (\S+), projections (\S+), alike (\w+)", done.stdout)
    assert len(lines) == 2, done.stderr[-2000:]
    assert all(float(weights) < 1e-5 and float(far) < 1e-5 and alike == "True" for weights, far, alike in lines)
