"""Dropout of the Transformer: masks that are a function of the sentence's noise alone."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindspore_thor.data.text.order import pair_noise
from mindspore_thor.errors import UserError
from models import create_model
from models.transformer.dropout import TokenDropout, WeightDropout, token_noise


@pytest.fixture(autouse=True)
def graph_mode() -> None:
    ms.set_context(mode=ms.GRAPH_MODE)


def noise_of(pairs: np.ndarray, epoch: int = 0) -> Tensor:
    return Tensor(pair_noise(1, epoch, pairs))


def test_shares_and_scales() -> None:
    rate = 0.3
    numbers = token_noise(noise_of(np.arange(200)), 25)
    found = TokenDropout(32, rate, 4)(Tensor(np.ones((200, 25, 32), np.float32)), numbers).asnumpy()
    np.testing.assert_allclose(np.unique(found), [0.0, 1 / 0.7], rtol=1e-6)
    dropped = found == 0
    # 160,000 units, but only 4,096 different rows: those decide how far the share may be off.
    assert abs(dropped.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / (4096 * 32))
    # No feature and no position is dropped much more often than another one.
    for axes, count in (((0, 1), 4096), ((0, 2), 200 * 32)):
        limit = 5 * np.sqrt(rate * (1 - rate) / count)
        assert np.abs(dropped.mean(axes) - rate).max() < limit
    weights = Tensor(np.ones((200, 2, 25, 9), np.float32))
    kept = WeightDropout(2, 16, rate, 4)(weights, numbers).asnumpy()
    assert abs((kept == 0).mean() - rate) < 0.02
    assert 0.5 < (kept[:, 0] == kept[:, 1]).mean() < 0.7  # 0.58 of independent heads


def test_masks_depend_on_noise_position_and_layer_only() -> None:
    ones = Tensor(np.ones((3, 7, 64), np.float32))
    first, second = TokenDropout(64, 0.5, 1), TokenDropout(64, 0.5, 2)
    pairs = np.array([5, 9, 5])
    numbers = token_noise(noise_of(pairs), 7)
    found = first(ones, numbers).asnumpy()
    np.testing.assert_array_equal(found[0], found[2])  # the same sentence, elsewhere in the batch
    np.testing.assert_array_equal(found, first(ones, numbers).asnumpy())
    others = (
        second(ones, numbers).asnumpy(),
        first(ones, token_noise(noise_of(pairs, 1), 7)).asnumpy(),
        np.roll(found, 1, axis=1),
    )
    for other in others:
        assert 0.3 < (found == other).mean() < 0.7
    # Padding behind the sentence changes nothing in front.
    longer = token_noise(noise_of(pairs), 11).asnumpy()
    np.testing.assert_array_equal(longer[:, :7], numbers.asnumpy())


def test_noise_is_new_in_every_epoch_and_the_same_on_every_rank() -> None:
    pairs = np.arange(1000)
    noises = [pair_noise(seed, epoch, pairs) for seed in (0, 1) for epoch in range(3)]
    for index, noise in enumerate(noises):
        assert noise.dtype == np.int32 and len(np.unique(noise)) == 1000
        for other in noises[:index]:
            assert (noise == other).mean() < 0.01
    np.testing.assert_array_equal(pair_noise(1, 2, pairs[7:400:3]), noises[5][7:400:3])


def test_the_net_drops_in_training_only_and_asks_for_noise() -> None:
    net = create_model(
        "transformer", vocab_size=20, width=8, hidden=8, heads=2, encoder_layers=1,
        decoder_layers=1, dropout=0.4, attention_dropout=0.4, max_length=9,
    )  # fmt: skip
    source, target = (Tensor(np.array(x, np.int32)) for x in ([[4, 5, 2]], [[1, 6]]))
    noise = noise_of(np.array([3]))
    net.set_train(False)
    plain = net(source, target).asnumpy()
    np.testing.assert_array_equal(net(source, target, noise).asnumpy(), plain)
    net.set_train(True)
    dropped = net(source, target, noise).asnumpy()
    assert np.abs(dropped - plain).max() > 1e-3
    np.testing.assert_array_equal(net(source, target, noise).asnumpy(), dropped)
    assert np.abs(net(source, target, noise_of(np.array([4]))).asnumpy() - dropped).max() > 1e-3
    with pytest.raises((UserError, RuntimeError), match="drops nothing without noise"):
        net(source, target)
