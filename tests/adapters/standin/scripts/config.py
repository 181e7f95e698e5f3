"""As mindcv's config.py: a YAML file gives defaults to argparse, unknown keys are refused."""

import argparse

import yaml


def create_parser():
    parser_config = argparse.ArgumentParser(add_help=False)
    parser_config.add_argument("-c", "--config", type=str, default="")
    parser = argparse.ArgumentParser(parents=[parser_config])
    parser.add_argument("--opt", type=str, default="adam", choices=["sgd", "momentum", "adam"])
    for name, default in (
        ("lr", 0.1),
        ("momentum", 0.9),
        ("weight_decay", 1e-6),
        ("loss_scale", 1.0),
        ("clip_value", 15.0),
    ):
        parser.add_argument(f"--{name}", type=float, default=default)
    for name, number in (("epoch_size", 2), ("gradient_accumulation_steps", 1)):
        parser.add_argument(f"--{name}", type=int, default=number)
    for name in ("ema", "clip_grad", "use_nesterov"):
        parser.add_argument(f"--{name}", type=lambda text: text == "True", default=False)
    for name, text in (
        ("weight_decay_filter", "disable"),
        ("loss_scale_type", "fixed"),
        ("amp_level", "O0"),
        ("ckpt_save_dir", "."),
        ("ckpt_path", ""),
    ):
        parser.add_argument(f"--{name}", type=str, default=text)
    return parser_config, parser


def parse_args(args=None):
    parser_config, parser = create_parser()
    found, remaining = parser_config.parse_known_args(args)
    if found.config:
        with open(found.config) as file:
            settings = yaml.safe_load(file)
        for key in settings:
            if key not in [action.dest for action in parser._actions]:
                raise KeyError(f"{key} does not exist in ArgumentParser!")
        parser.set_defaults(**settings)
    return parser.parse_args(remaining)
