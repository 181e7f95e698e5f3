"""Choosing THOR's split dimension for a model and a device (THOR section 3.2).

python -m mindspore_thor.tune_split --config_path R.yaml [--checkpoint_file_path C]
"""
