"""As mindcv's train.py, for a small net on noise: four batches an epoch."""

import json
import os

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
from config import parse_args
from mindcv.optim import create_optimizer
from mindcv.utils import create_trainer
from mindspore import nn


class Losses(ms.Callback):
    def __init__(self):
        super().__init__()
        self.losses = []

    def on_train_step_end(self, run_context):
        self.losses.append(float(run_context.original_args().net_outputs.asnumpy()))


def main():
    args = parse_args()
    os.makedirs(args.ckpt_save_dir, exist_ok=True)
    ms.set_seed(3)
    generator = np.random.default_rng(1)
    images = generator.standard_normal((16, 6)).astype(np.float32)
    labels = (images[:, 0] > 0).astype(np.int32)
    loader = ds.NumpySlicesDataset((images, labels), shuffle=False).batch(4)
    network = nn.SequentialCell(nn.Dense(6, 5), nn.ReLU(), nn.Dense(5, 2))
    for parameter in network.get_parameters():
        value = 0.3 * generator.standard_normal(parameter.shape)
        parameter.set_data(ms.Tensor(value.astype(np.float32)))
    optimizer = create_optimizer(
        network,
        opt=args.opt,
        lr=[args.lr * 0.9**k for k in range(4 * args.epoch_size)],
        weight_decay=args.weight_decay,
        momentum=args.momentum,
        nesterov=args.use_nesterov,
        weight_decay_filter=args.weight_decay_filter,
        loss_scale=args.loss_scale,
        checkpoint_path=args.ckpt_path,
    )
    trainer = create_trainer(
        network,
        nn.CrossEntropyLoss(),
        optimizer,
        {"accuracy"},
        amp_level=args.amp_level,
        amp_cast_list=None,
        loss_scale_type=args.loss_scale_type,
        loss_scale=args.loss_scale,
        ema=args.ema,
        clip_grad=args.clip_grad,
        clip_value=args.clip_value,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
    )
    losses = Losses()
    trainer.train(args.epoch_size, loader, callbacks=[losses], dataset_sink_mode=False)
    ms.save_checkpoint(network, f"{args.ckpt_save_dir}/net.ckpt")
    ms.save_checkpoint(optimizer, f"{args.ckpt_save_dir}/optim.ckpt")
    accuracy = trainer.eval(loader, dataset_sink_mode=False)["accuracy"]
    with open(f"{args.ckpt_save_dir}/found.json", "w") as file:
        json.dump({"losses": losses.losses, "accuracy": accuracy, "args": vars(args)}, file)


if __name__ == "__main__":
    main()
