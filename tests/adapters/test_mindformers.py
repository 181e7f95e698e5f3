"""mindformers' layers and trainer, by look-alikes with its attributes and calls; none is installed.

What was run with mindformers 2.0.0 itself is in docs/mindformers.md.
"""

from __future__ import annotations

import sys
import types
from types import SimpleNamespace
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from mindspore_thor import THOR, TrainStep, UserError
from mindspore_thor.adapters.mindformers import register
from mindspore_thor.adapters.mindformers.layers import embedding_type, linear_type
from mindspore_thor.adapters.mindformers.training import (
    SecondOrderSettings,
    SecondOrderWrapper,
    SummedLoss,
)
from mindspore_thor.layers.registry import layer_type_of, register_layer_type

SEQUENCES, LENGTH, VOCABULARY, WIDTH, HIDDEN = 4, 3, 7, 5, 6
CONFIG = SimpleNamespace(compute_dtype=ms.float32, tensor_model_parallel_size=1)


def parameter(*shape: int, name: str, seed: int) -> Parameter:
    values = np.random.default_rng(seed).standard_normal(shape) / 2
    return Parameter(Tensor(values.astype(np.float32)), name=name)


class ColumnParallelLinear(nn.Cell):
    def __init__(self, d_in: int, d_out: int, skip_bias_add: bool, seed: int) -> None:
        super().__init__()
        self.config, self.compute_dtype = CONFIG, CONFIG.compute_dtype
        self.transpose_b, self.has_bias, self.skip_bias_add = True, True, skip_bias_add
        self.weight = parameter(d_out, d_in, name="weight", seed=seed)
        self.bias = parameter(d_out, name="bias", seed=seed + 1)
        self.matmul = ops.MatMul(transpose_b=True)

    def construct(self, input_, weight=None):
        output = self.forward_func(input_, self.weight)
        if self.skip_bias_add:
            return output, self.bias
        return output + self.bias, None

    def forward_func(self, input_, weight):
        shape = input_.shape
        rows = self.matmul(input_.reshape((-1, shape[-1])), weight)
        return rows.reshape(shape[:-1] + (weight.shape[0],))  # noqa: RUF005

    def forward_func_with_bias(self, input_, weight, bias):
        return self.forward_func(input_, weight) + bias


class VocabParallelEmbedding(nn.Cell):
    def __init__(self, vocabulary: int, width: int, seed: int) -> None:
        super().__init__()
        self.config = CONFIG
        self.weight = parameter(vocabulary, width, name="weight", seed=seed)

    def construct(self, input_):
        return self.embedding_func(input_, self.weight)

    def embedding_func(self, input_, weight):
        return ops.gather(weight, input_, 0)


class WithLoRA(ColumnParallelLinear):
    def forward_func(self, input_, weight):
        return 2.0 * super().forward_func(input_, weight)


LINEAR = register_layer_type(linear_type(ColumnParallelLinear))
EMBEDDING = register_layer_type(embedding_type(VocabParallelEmbedding))


class Theirs(nn.Cell):
    """Sequences first between the look-up and the output, biases once inside and once outside."""

    def __init__(self) -> None:
        super().__init__()
        self.table = VocabParallelEmbedding(VOCABULARY, WIDTH, 1)
        self.first = ColumnParallelLinear(WIDTH, HIDDEN, True, 2)
        self.second = ColumnParallelLinear(HIDDEN, VOCABULARY, False, 4)

    def construct(self, ids):
        x = self.table(ids).transpose((1, 0, 2))
        x, bias = self.first(x)
        x, _ = self.second(ops.tanh(x + bias))
        return x.transpose((1, 0, 2)).reshape((-1, VOCABULARY))


class Ours(nn.Cell):
    """The same function of the same parameters, by MindSpore's layers."""

    def __init__(self, theirs: Theirs) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, WIDTH)
        self.first = nn.Dense(WIDTH, HIDDEN)
        self.second = nn.Dense(HIDDEN, VOCABULARY)
        for own, other in zip(self.trainable_params(), theirs.trainable_params()):
            assert own.shape == other.shape
            own.set_data(Tensor(other.asnumpy()))

    def construct(self, ids):
        x = ops.tanh(self.first(self.table(ids)))
        return self.second(x).reshape((-1, VOCABULARY))


def trained(net: nn.Cell, method: Any, **options: Any) -> tuple[list[float], list[np.ndarray], Any]:
    optimizer = method(net, 0.1, **options)
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    step = TrainStep(net, loss, optimizer)
    rng = np.random.default_rng(9)
    losses = []
    for _ in range(3):
        ids = rng.integers(0, VOCABULARY, (SEQUENCES, LENGTH)).astype(np.int32)
        label = ((3 * ids + 1) % VOCABULARY).reshape(-1).astype(np.int32)
        losses.append(float(step(Tensor(ids), Tensor(label)).asnumpy()))
    return losses, [p.asnumpy() for p in net.trainable_params()], optimizer


@pytest.mark.slow
def test_steps_are_those_of_the_same_net_of_mindspores_layers() -> None:
    theirs = Theirs()
    ours = Ours(theirs)
    # Statistics in every step, inverses in the first and the third: all kinds of steps.
    options = {"damping": 0.1, "factor_interval": 1, "inverse_interval": 2}
    losses, weights, optimizer = trained(theirs, THOR, **options)
    expected_losses, expected, _ = trained(ours, THOR, **options)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for got, wanted in zip(weights, expected):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)
    report = optimizer.layer_report()
    assert [(row.type, row.covered) for row in report] == [
        ("VocabParallelEmbedding", True),
        ("ColumnParallelLinear", True),
        ("ColumnParallelLinear", True),
    ]
    assert all(row.accepted for row in report)


def changed(cell: Any, **attributes: Any) -> Any:
    for name, value in attributes.items():
        setattr(cell, name, value)
    return cell


def test_what_is_not_covered_says_why() -> None:
    split = SimpleNamespace(compute_dtype=ms.float32, tensor_model_parallel_size=2)
    linear = ColumnParallelLinear(2, 3, False, 1)
    assert LINEAR.why_not(linear) == ""
    assert "transpose_b=False" in LINEAR.why_not(changed(linear, transpose_b=False))
    assert "tensor parallelism" in LINEAR.why_not(
        changed(ColumnParallelLinear(2, 3, False, 1), config=split)
    )
    table = VocabParallelEmbedding(3, 2, 1)
    assert EMBEDDING.why_not(table) == ""
    assert "tensor parallelism" in EMBEDDING.why_not(changed(table, config=split))
    lora = WithLoRA(2, 3, False, 1)
    assert layer_type_of(lora) is LINEAR
    assert LINEAR.why_not(lora) == "WithLoRA has a forward pass of its own: plain gradient"


class FourLosses(nn.Cell):
    def construct(self, x):
        return x.sum(), Tensor(np.array([2.0], np.float32)), x.mean(), Tensor(0.5, ms.float32)


def test_losses_add_up() -> None:
    # 6 + 2 + 2 + 0.5
    assert float(SummedLoss(FourLosses())(Tensor([1.0, 2.0, 3.0], ms.float32)).asnumpy()) == 10.5


GIVEN = {
    "parallel_config": object(),
    "calculate_per_token_loss": False,
    "global_norm_spike_threshold": 1.0,
    "print_separate_loss": True,
    "use_skip_data_by_global_norm": False,
    "lr_scheduler": None,
    "grouped_lr_scheduler": None,
}
"""What mindformers' trainer gives to a wrapper beside network and optimizer."""


def settings(net: nn.Cell, **options: Any) -> SecondOrderSettings:
    first, *others = net.trainable_params()
    groups = [{"params": others, "weight_decay": 0.25}, {"params": [first], "weight_decay": 0.0}]
    return SecondOrderSettings(groups, 0.1, **options)


def test_the_wrapper_makes_the_method_of_network_and_settings() -> None:
    net = Theirs()
    wrapper = SecondOrderWrapper(
        net, settings(net, method="kfac", damping=0.2), scale_sense=8, **GIVEN
    )
    optimizer = wrapper.optimizer
    assert type(optimizer).__name__ == "KFAC"
    assert optimizer.loss_scale == 8.0
    assert [p.name for p in optimizer.weights] == [
        p.name for p in (*net.trainable_params()[1:], net.trainable_params()[0])
    ]
    with pytest.raises(UserError, match=r"set runner_wrapper.type to SecondOrderWrapper"):
        settings(net).construct(())


@pytest.mark.parametrize(
    ("options", "given", "words"),
    [
        ({}, {"use_clip_grad": True}, "use_clip_grad"),
        ({}, {"calculate_per_token_loss": True}, "calculate_per_token_loss"),
        ({}, {"grouped_lr_scheduler": [1]}, "grouped_lr_scheduler"),
        ({}, {"max_grad_norm": 1.0}, "'max_grad_norm'"),
        ({}, {"scale_sense": nn.ReLU()}, "scale_sense is 'ReLU'"),
        ({"method": "adamw"}, {}, "'adamw' is no second-order method"),
        ({"method": "tor"}, {}, "unknown optimizer 'tor'"),
        ({"betas": (0.9, 0.95)}, {}, "betas"),
    ],
)
def test_what_the_wrapper_does_not_take(
    options: dict[str, Any], given: dict[str, Any], words: str
) -> None:
    net = Theirs()
    with pytest.raises(UserError, match=words) as caught:
        SecondOrderWrapper(net, settings(net, **options), **{**GIVEN, **given})
    assert "\n" not in str(caught.value)


def modules(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], type]:
    """mindformers, as far as ``register`` asks for it; returns its registry."""
    known: dict[tuple[str, str], type] = {}

    class Register:
        @staticmethod
        def register_cls(register_class: type, module_type: str) -> None:
            known[module_type, register_class.__name__] = register_class

    layers = types.ModuleType("layers")
    layers.ColumnParallelLinear = ColumnParallelLinear  # type: ignore[attr-defined]
    layers.RowParallelLinear = type("RowParallelLinear", (nn.Cell,), {})  # type: ignore[attr-defined]
    layers.VocabParallelEmbedding = VocabParallelEmbedding  # type: ignore[attr-defined]
    tools = types.ModuleType("register")
    tools.MindFormerRegister = Register  # type: ignore[attr-defined]
    tools.MindFormerModuleType = SimpleNamespace(  # type: ignore[attr-defined]
        OPTIMIZER="optimizer", WRAPPER="wrapper"
    )
    path = "mindformers.parallel_core.training_graph.tensor_parallel.layers"
    for name, module in ((path, layers), ("mindformers.tools.register", tools)):
        for end in [i for i, letter in enumerate(name) if letter == "."]:
            monkeypatch.setitem(sys.modules, name[:end], types.ModuleType(name[:end]))
        monkeypatch.setitem(sys.modules, name, module)
    return known


def test_register_makes_all_known(monkeypatch: pytest.MonkeyPatch) -> None:
    known = modules(monkeypatch)
    register()
    register()
    assert known == {
        ("optimizer", "SecondOrderSettings"): SecondOrderSettings,
        ("wrapper", "SecondOrderWrapper"): SecondOrderWrapper,
    }
    assert layer_type_of(ColumnParallelLinear(2, 3, False, 1)) is not LINEAR  # the later one


def test_without_mindformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mindformers", None)
    with pytest.raises(UserError, match=r"mindformers cannot be imported .*docs/mindformers\.md"):
        register()
