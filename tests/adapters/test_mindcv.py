"""The adapter for mindcv, with a stand-in of the same signatures: ``standin/``."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from mindspore_thor import THOR, TrainStep
from mindspore_thor.adapters.mindcv import choice, optimizer
from mindspore_thor.adapters.mindcv.launch import main
from mindspore_thor.adapters.mindcv.replace import Replacement, install
from mindspore_thor.errors import UserError
from mindspore_thor.methods import METHODS

STANDIN = Path(__file__).parent / "standin"
TRAIN = str(STANDIN / "scripts" / "train.py")


@pytest.fixture(autouse=True)
def standin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stand-in in place of mindcv, also where that is installed."""
    ms.set_context(mode=ms.GRAPH_MODE)

    def forget() -> None:
        for name in list(sys.modules):
            if name == "config" or name.partition(".")[0] == "mindcv":
                del sys.modules[name]

    forget()
    monkeypatch.setattr(sys, "path", [str(STANDIN), *sys.path])
    yield
    forget()


def write(folder: Path, text: str) -> str:
    path = folder / "config.yaml"
    path.write_text(f"ckpt_save_dir: {folder}/out\n{text}", encoding="utf-8")
    return str(path)


def found(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "found.json").read_text(encoding="utf-8"))


def small_net() -> nn.Cell:
    """The net of the stand-in's script, with its weights."""
    generator = np.random.default_rng(1)
    generator.standard_normal((16, 6))
    net = nn.SequentialCell(nn.Dense(6, 5), nn.ReLU(), nn.Dense(5, 2))
    for parameter in net.get_parameters():
        value = 0.3 * generator.standard_normal(parameter.shape)
        parameter.set_data(Tensor(value.astype(np.float32)))
    return net


def batches() -> list[tuple[Tensor, Tensor]]:
    """Those of the stand-in's script."""
    images = np.random.default_rng(1).standard_normal((16, 6)).astype(np.float32)
    labels = (images[:, 0] > 0).astype(np.int32)
    return [(Tensor(images[k : k + 4]), Tensor(labels[k : k + 4])) for k in range(0, 16, 4)]


def values(net: nn.Cell) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy().copy() for p in net.get_parameters()}


def test_every_method_has_a_name_and_mindcvs_names_stay_mindcvs() -> None:
    assert sorted(str(choice.method_of(name)) for name in choice.names()) == sorted(METHODS)
    assert choice.method_of("THOR") == "thor"
    assert [choice.method_of(name) for name in ("sgd", "adamw", "momentum")] == [None] * 3
    assert choice.method_of("mindspore_thor.sgd") == "sgd"
    with pytest.raises(UserError, match=r"'mindspore_thor\.thro'.* thor"):
        choice.method_of("mindspore_thor.thro")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("opt: thor\nclip_grad: True\nclip_value: 5", "clip_grad with opt thor.*clip_norm: 5"),
        ("opt: kfac\nema: True", "ema with opt kfac"),
        ("opt: thor\nuse_nesterov: True", "use_nesterov with opt thor"),
        ("opt: thor\nopt_options: {dampng: 0.1}", "dampng.*did you mean 'damping'"),
        ("opt: thor\nopt_options: {weight_decay: 0.1}", "mindcv's own key weight_decay"),
        ("opt: thor\nopt_options: {compile_cache: 3}", "compile_cache is 3; give true, false"),
        ("opt: thor\nopt_options: [1]", "opt_options is .1.; give"),
        ("opt: momentum\nopt_options: {damping: 0.1}", "opt is mindcv's momentum"),
        ("opt: fngd\nopt_options: {damping: 0.1}", "fngd has no option .damping"),
    ],
)
def test_what_cannot_be_is_one_line_before_any_work(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    assert main([TRAIN, "--config", write(tmp_path, text)]) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    assert re.search(words, lines[0])
    assert not (tmp_path / "out").exists()


def test_a_missing_script_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["nowhere/train.py"]) == 2
    assert "nowhere/train.py: there is no such file" in capfd.readouterr().err
    assert main(["--config", "c.yaml"]) == 2
    assert "the first argument is mindcv's script" in capfd.readouterr().err


def test_without_mindcv_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mindcv", None)
    with pytest.raises(UserError, match="pip install mindcv"):
        install()


def test_options_are_yaml_1_2_and_may_hold_schedules() -> None:
    # PyYAML reads 1e-3 as text.
    given = {"damping": "1e-3", "trace_thresholds": ["1e-2", 0.0], "factor_interval": 10}
    options = choice.checked_options("thor", given)
    assert options == {"damping": 1e-3, "trace_thresholds": (1e-2, 0.0), "factor_interval": 10}
    scheduled = {"damping": {"schedule": "exponential", "initial": 0.5, "rho": 0.2}}
    with pytest.raises(UserError, match="damping is a schedule in epochs"):
        choice.with_schedules(scheduled, None, None)
    damping = choice.with_schedules(scheduled, 4, 10)["damping"]
    step = Tensor(7, ms.int32)  # with it two epochs of four steps are finished
    # Eq. 15 of the THOR paper: initial * rho^(epoch / 10).
    np.testing.assert_allclose(damping(step).asnumpy(), 0.5 * 0.2 ** (2 / 10), rtol=1e-5)


def test_the_same_parameters_decay_as_with_mindcvs_optimizers() -> None:
    class Net(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.dense, self.norm = nn.Dense(3, 2), nn.BatchNorm1d(2)
            self.table = nn.Dense(2, 2, has_bias=False)

        def no_weight_decay(self) -> set[str]:
            return {"table.weight"}

    net = Net()

    def decaying(filter_name: str) -> list[str]:
        decays = optimizer.decay_filter(net, filter_name)
        return [p.name for p in net.trainable_params() if decays(p)]

    everything = ["dense.weight", "dense.bias", "norm.gamma", "norm.beta", "table.weight"]
    assert decaying("disable") == everything
    # MindSpore's own rule, when it is left to it.
    assert decaying("auto") == ["dense.weight", "dense.bias", "table.weight"]
    assert decaying("norm_and_bias") == ["dense.weight"]
    with pytest.raises(UserError, match="weight_decay_filter is 'none'"):
        optimizer.decay_filter(net, "none")


def test_mindcvs_own_optimizers_are_left_to_mindcv() -> None:
    replacement = install()
    assert install() is replacement
    import mindcv
    import mindcv.utils

    net = small_net()
    made = mindcv.create_optimizer(net, opt="momentum", lr=0.2, momentum=0.7, eps=3.0, beta=1)
    asked = made.asked
    assert (asked["opt"], asked["lr"], asked["momentum"], asked["eps"]) == ("momentum", 0.2, 0.7, 3)
    assert asked["kwargs"] == {"beta": 1}
    trainer = mindcv.utils.create_trainer(
        *(net, nn.CrossEntropyLoss(), made, {"accuracy"}, "O0", None, "fixed"),
        clip_grad=True,
        gradient_accumulation_steps=3,
    )
    assert trainer.asked["clip_grad"] and trainer.asked["gradient_accumulation_steps"] == 3


def test_parameters_alone_are_not_enough() -> None:
    install()
    import mindcv

    with pytest.raises(UserError, match="opt thor was given a list: it needs the network"):
        mindcv.create_optimizer(small_net().trainable_params(), opt="thor")


@pytest.mark.slow
def test_a_yaml_file_trains_as_the_method_itself(tmp_path: Path) -> None:
    text = (
        "opt: thor\nopt_options: {damping: 5e-2, factor_interval: 2, inverse_interval: 2}\n"
        "lr: 0.2\nmomentum: 0.8\nweight_decay: 0.01\nweight_decay_filter: norm_and_bias\n"
        "loss_scale: 8\n"
    )
    assert main([TRAIN, "--config", write(tmp_path, text)]) == 0
    net = small_net()
    # By hand: rates 0.2 * 0.9^k, decay of the two weight matrices alone, a loss scale of 8.
    rates = [0.2 * 0.9**k for k in range(8)]
    own = THOR(
        *(net, rates),
        damping=0.05,
        momentum=0.8,
        weight_decay=0.01,
        factor_interval=2,
        inverse_interval=2,
        loss_scale=8.0,
        decay_filter=lambda p: p.name in ("0.weight", "2.weight"),
    )
    step = TrainStep(net, nn.CrossEntropyLoss(), own)
    losses = [float(step(*batch).asnumpy()) for _ in range(2) for batch in batches()]
    seen = found(tmp_path)
    assert seen["losses"] == losses
    assert seen["args"]["opt_options"]["factor_interval"] == 2
    stored = ms.load_checkpoint(str(tmp_path / "out" / "net.ckpt"))
    assert {name: p.asnumpy().tolist() for name, p in stored.items()} == {
        name: value.tolist() for name, value in values(net).items()
    }
    # The optimizer's file continues it: all of its state, and no other method's.
    path = str(tmp_path / "out" / "optim.ckpt")
    file = ms.load_checkpoint(path)
    again = THOR(small_net(), [*rates, 0.5], damping=0.05)
    optimizer.load_state(again, file, path)
    state = {p.name: p for p in own.get_parameters()}
    for parameter in again.get_parameters():
        if parameter.name != "learning_rate":
            np.testing.assert_array_equal(parameter.asnumpy(), state[parameter.name].asnumpy())
    assert int(again.global_step.asnumpy()[0]) == 8
    assert float(again.get_lr().asnumpy()) == 0.5  # its own schedule's ninth
    for other, words in (
        (THOR(small_net(), rates, split_dim=2), "has the shape"),
        (METHODS["kfac"](small_net(), rates), "not the state of KFAC"),
    ):
        with pytest.raises(UserError, match=words):
            optimizer.load_state(other, file, path)
    # mindcv trains as many epochs again: their rates are the last one.
    import mindcv

    more = mindcv.create_optimizer(
        *(small_net(), "thor", rates), checkpoint_path=path, damping=0.05
    )
    np.testing.assert_allclose(more.get_lr().asnumpy(), rates[-1], rtol=1e-6)


@pytest.mark.slow
def test_an_update_of_several_batches_takes_the_rate_of_its_last_one(tmp_path: Path) -> None:
    text = "opt: eva\ngradient_accumulation_steps: 2\nweight_decay: 0.0\nlr: 0.2\n"
    options = f"{{damping: 0.1, kl_clip: null, compile_cache: {tmp_path}/kept}}"
    assert main([TRAIN, "--config", write(tmp_path, text), "--opt_options", options]) == 0
    net = small_net()
    rates = [0.2 * 0.9**k for k in (1, 3, 5, 7)]
    own = METHODS["eva"](net, rates, damping=0.1, kl_clip=None)
    step = TrainStep(net, nn.CrossEntropyLoss(), own, accumulate=2)
    losses = [float(step(*batch).asnumpy()) for _ in range(2) for batch in batches()]
    assert found(tmp_path)["losses"] == losses
    assert any((tmp_path / "kept").iterdir())
    assert int(own.global_step.asnumpy()[0]) == 4


@pytest.mark.slow
def test_half_precision_and_a_dynamic_scale_train(tmp_path: Path) -> None:
    text = "opt: eva\namp_level: O3\nloss_scale_type: dynamic\nloss_scale: 1024\nepoch_size: 3\n"
    assert main([TRAIN, "--config", write(tmp_path, text)]) == 0
    seen = found(tmp_path)
    first, last = np.mean(seen["losses"][:4]), np.mean(seen["losses"][-4:])
    assert last < first
    assert 0.5 <= seen["accuracy"] <= 1.0


def test_rates_by_layer_and_what_fngd_asks_for() -> None:
    install()
    import mindcv

    net = small_net()
    made = mindcv.create_optimizer(
        *(net, "thor", [0.4, 0.2], 0.1), layer_decay=0.5, loss_scale=4.0, damping=0.1
    )
    # Four parameters in four groups: the last has the whole rate.
    assert [float(rate.asnumpy()) for rate in made.get_lr()] == pytest.approx([0.05, 0.1, 0.2, 0.4])
    decays = [float(value) for value in made.get_weight_decay()]
    assert decays == pytest.approx([0.1, 0.0, 0.1, 0.0])
    replacement = install()
    replacement.settings = {"epoch_size": 3, "gradient_accumulation_steps": 1}
    assert isinstance(replacement, Replacement)
    fngd = mindcv.create_optimizer(small_net(), opt="fngd", lr=[0.1] * 12)
    assert fngd.first_epoch == 4
    with pytest.raises(UserError, match="loss_scale=2 and the optimizer 4"):
        mindcv.utils.create_trainer(
            *(net, nn.CrossEntropyLoss(), made, {"accuracy"}), loss_scale=2.0
        )
