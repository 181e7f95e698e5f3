from mindspore import nn


def param_groups_layer_decay(
    model, lr=1e-3, weight_decay=0.05, no_weight_decay_list=(), layer_decay=0.75
):
    """A group for each parameter; the last one has the whole rate."""
    parameters = model.trainable_params()
    scales = [layer_decay ** (len(parameters) - 1 - k) for k in range(len(parameters))]
    return [
        {
            "params": [p],
            "lr": [rate * scale for rate in lr],
            "weight_decay": 0.0 if p.ndim == 1 or p.name in no_weight_decay_list else weight_decay,
        }
        for p, scale in zip(parameters, scales)
    ]


def create_optimizer(
    model_or_params,
    opt="adam",
    lr=1e-3,
    weight_decay=0,
    momentum=0.9,
    nesterov=False,
    weight_decay_filter="disable",
    layer_decay=None,
    loss_scale=1.0,
    schedule_decay=4e-3,
    checkpoint_path="",
    eps=1e-10,
    **kwargs,
):
    made = nn.Momentum(model_or_params.trainable_params(), lr, momentum, loss_scale=loss_scale)
    made.asked = dict(locals(), made=None)
    return made
