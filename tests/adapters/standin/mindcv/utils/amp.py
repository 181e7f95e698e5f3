from mindspore import dtype as mstype


def auto_mixed_precision(network, amp_level="O0", amp_cast_list=None):
    if amp_level in ("O2", "O3"):
        network.to_float(mstype.float16)
