import mindspore as ms


def create_trainer(
    network,
    loss,
    optimizer,
    metrics,
    amp_level,
    amp_cast_list,
    loss_scale_type,
    loss_scale=1.0,
    drop_overflow_update=False,
    ema=False,
    ema_decay=0.9999,
    clip_grad=False,
    clip_value=15.0,
    gradient_accumulation_steps=1,
):
    made = ms.Model(network, loss, optimizer, metrics)
    made.asked = dict(locals(), made=None)
    return made
