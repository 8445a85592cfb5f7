"""Distillation: the losses against torch's own, neutral settings, resume, and the transformers trainer."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from superpose.errors import InputError
from superpose.theory import min_norm_fit
from superpose.training import (
    Optimiser,
    SoftLabelTrainerMixin,
    distill,
    distillation_loss,
    shuffled_batches,
)
from tiny import tiny_model


def network(seed, out=4):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, out))


@pytest.fixture
def pool():
    return torch.randn(90, 5, generator=torch.Generator().manual_seed(0))


def test_losses_equal_torchs_own_and_are_zero_for_equal_outputs():
    student, teacher = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0)).unbind()
    soft = F.cross_entropy(student, teacher.softmax(-1)) - F.cross_entropy(teacher, teacher.softmax(-1))
    torch.testing.assert_close(distillation_loss(student, teacher), soft)
    torch.testing.assert_close(
        distillation_loss(student, teacher, "hard"), F.cross_entropy(student, teacher.argmax(-1))
    )
    torch.testing.assert_close(distillation_loss(student, teacher, "values"), F.mse_loss(student, teacher))
    assert distillation_loss(teacher, teacher, temperature=3.0).abs() < 1e-6
    scored = torch.tensor([True, False, True])
    torch.testing.assert_close(
        distillation_loss(student, teacher, "hard", scored=scored),
        F.cross_entropy(student[scored], teacher[scored].argmax(-1)),
    )
    assert distillation_loss(student, teacher, scored=torch.zeros(3, dtype=torch.bool)) == 0


def test_temperature_keeps_the_size_of_gradients_and_none_reaches_the_teacher():
    # Far above the logits the loss is their mean squared distance after centring, whatever the temperature.
    student, teacher = torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).unbind()
    student.requires_grad_(), teacher.requires_grad_()
    loss = distillation_loss(student, teacher, temperature=1000.0)
    loss.backward()
    apart = (student - teacher).detach()
    centred = apart - apart.mean(-1, keepdim=True)
    torch.testing.assert_close(student.grad, centred / 6 / 5, rtol=2e-2, atol=1e-3)
    assert teacher.grad is None


def test_every_epoch_shows_every_example_once_in_an_order_of_its_own():
    chosen = shuffled_batches(10, 4, seed=3)
    epochs = [torch.cat([chosen(3 * e + i) for i in range(3)]) for e in range(3)]
    for epoch in epochs:
        assert epoch.sort().values.tolist() == list(range(10))
    assert epochs[0].tolist() != epochs[1].tolist()
    assert len(chosen(2)) == 2
    torch.testing.assert_close(chosen(4), shuffled_batches(10, 4, seed=3)(4))


@pytest.mark.parametrize("labels", ["soft", "hard", "values"])
def test_a_student_comes_to_agree_with_its_teacher(pool, labels):
    teacher, student = network(0), network(1)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    teacher.train()
    history = distill(student, teacher, pool, steps=300, labels=labels, optimiser=Optimiser("adam", lr=1e-2))
    assert history.losses[-20:].mean() < 0.5 * history.losses[:5].mean()
    student.eval(), teacher.eval()
    agree = (student(pool).argmax(-1) == teacher(pool).argmax(-1)).float().mean()
    assert agree > 0.8
    for name, value in teacher.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_the_teacher_is_evaluated_without_dropout_and_left_in_its_mode(pool):
    teacher, student = network(0), network(1)
    teacher.train()
    teacher[0].eval()
    seen = []
    hook = teacher[2].register_forward_hook(lambda module, args, out: seen.append(module.training))
    distill(student, teacher, pool, steps=1)
    hook.remove()
    assert seen == [False] and teacher.training and not teacher[0].training


def test_a_pool_and_a_function_of_the_step_train_alike(pool):
    teacher, first = network(0), network(1)
    second = copy.deepcopy(first)
    chosen = shuffled_batches(len(pool), 16, 5)
    distill(first, teacher, pool, steps=12, batch=16, seed=5)
    distill(second, teacher, lambda step: pool[chosen(step)], steps=12, seed=5)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_killed_run_goes_on_to_the_same_bits(pool, tmp_path):
    teacher, whole = network(0), network(1)
    killed = copy.deepcopy(whole)
    distill(whole, teacher, pool, steps=20, batch=16)

    def stop(done):
        if done == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(killed, teacher, pool, steps=20, batch=16, checkpoint=tmp_path, checkpoint_every=5, on_step=stop)
    resumed = network(1)
    distill(resumed, teacher, pool, steps=20, batch=16, checkpoint=tmp_path, checkpoint_every=5)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(InputError, match="checkpoint"):
        distill(network(1), teacher, pool, steps=20, batch=16, labels="hard", checkpoint=tmp_path)


def test_a_linear_student_from_zero_is_the_min_norm_fit():
    x = torch.randn(6, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    teacher, student = nn.Linear(15, 1, bias=False).double(), nn.Linear(15, 1, bias=False).double()
    nn.init.zeros_(student.weight)
    distill(student, teacher, x, steps=3000, batch=6, labels="values", optimiser=Optimiser("sgd", lr=0.05))
    with torch.no_grad():
        torch.testing.assert_close(student.weight.T, min_norm_fit(x, teacher(x)), rtol=1e-5, atol=1e-6)


def test_wrong_settings_are_refused_in_one_sentence(pool):
    teacher, student = network(0), network(1)
    for message, call in {
        "labels is 'both'; allowed: soft, hard, values": lambda: distill(
            student, teacher, pool, steps=1, labels="both"
        ),
        "temperature is 0.0; allowed: finite": lambda: distill(student, teacher, pool, steps=1, temperature=0.0),
        "temperature is 2.0 with 'hard' labels": lambda: distill(
            student, teacher, pool, steps=1, labels="hard", temperature=2.0
        ),
        "teacher is the student itself": lambda: distill(student, student, pool, steps=1),
        r"inputs has shape \(0, 5\)": lambda: distill(student, teacher, pool[:0], steps=1),
        "batch is 0": lambda: distill(student, teacher, pool, steps=1, batch=0),
        "a model returned a list": lambda: distill(student, Listing(), pool, steps=1),
    }.items():
        with pytest.raises(InputError, match=message):
            call()
    with pytest.raises(InputError, match=r"teacher has outputs \(64, 3\); allowed: \(64, 4\)"):
        distill(student, network(0, out=3), pool, steps=1)


class Listing(nn.Module):
    """Returns what is no output."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, inputs):
        return [inputs]


class Distiller(SoftLabelTrainerMixin, Trainer):
    pass


def classifier(seed):
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        num_labels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForSequenceClassification(config)


def arguments(tmp_path, **settings):
    return TrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
        **settings,
    )


def sentences(count=32):
    rng = np.random.default_rng(0)
    return [{"input_ids": rng.integers(0, 30, 6).tolist(), "labels": int(rng.integers(3))} for _ in range(count)]


def test_the_transformers_trainer_trains_on_the_teacher_and_not_on_the_labels(tmp_path):
    teacher, student = classifier(0), classifier(1)
    with torch.no_grad():
        teacher.classifier.weight.mul_(20)
    data = sentences()
    trainer = Distiller(
        model=student,
        teacher=teacher,
        args=arguments(tmp_path, num_train_epochs=40, learning_rate=1e-2, per_device_train_batch_size=8),
        train_dataset=data,
        eval_dataset=data,
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.3 * before
    ids = torch.tensor([one["input_ids"] for one in data])
    with torch.no_grad():
        wanted = teacher(ids).logits
        assert trainer.evaluate()["eval_loss"] == pytest.approx(
            float(distillation_loss(student.eval()(ids).logits, wanted)), rel=1e-4
        )
    np.testing.assert_allclose(trainer.predict(data).predictions, student(ids).logits.detach().numpy(), atol=1e-5)


def test_accumulated_batches_give_the_gradient_of_one_large_batch(tmp_path):
    data, students = sentences(16), []
    for settings in (
        {"per_device_train_batch_size": 16},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4},
    ):
        student = classifier(1)
        Distiller(
            model=student,
            teacher=classifier(0),
            args=arguments(tmp_path, max_steps=3, learning_rate=0.1, optim="sgd", **settings),
            train_dataset=data,
        ).train()
        students.append(student)
    for a, b in zip(*(s.parameters() for s in students), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_stored_logits_replace_the_teacher_and_one_of_them_is_needed(tmp_path):
    teacher, data = classifier(0), sentences(8)
    batch = {"input_ids": torch.tensor([one["input_ids"] for one in data])}
    args = arguments(tmp_path, remove_unused_columns=False)
    student = classifier(1)
    with torch.no_grad():
        stored = teacher(**batch).logits
    by_teacher = Distiller(model=student, teacher=teacher, args=args).compute_loss(student, batch)
    alone = Distiller(model=student, args=args)
    torch.testing.assert_close(alone.compute_loss(student, {**batch, "teacher_logits": stored}), by_teacher)
    with pytest.raises(InputError, match="teacher is None and the batch holds no teacher_logits"):
        alone.compute_loss(student, batch)
    with pytest.raises(InputError, match="distill_labels is 'all'"):
        Distiller(model=student, args=args, distill_labels="all")


def test_a_causal_model_is_scored_where_its_labels_are(tmp_path):
    student, teacher = tiny_model("llama"), tiny_model("gpt2")
    teacher.resize_token_embeddings(student.config.vocab_size)
    ids = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :4] = -100
    trainer = Distiller(model=student, teacher=teacher, args=arguments(tmp_path), causal=True)
    with torch.no_grad():
        found = trainer.compute_loss(student.eval(), {"input_ids": ids, "labels": labels})
        # Positions 3 to 5 predict the tokens 4 to 6.
        s, t = student(ids).logits[:, 3:6], teacher.eval()(ids).logits[:, 3:6]
    torch.testing.assert_close(found, distillation_loss(s, t))
