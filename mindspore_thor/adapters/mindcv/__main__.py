"""``python -m mindspore_thor.adapters.mindcv train.py ...``."""

from mindspore_thor.adapters.mindcv.launch import main
from mindspore_thor.program import run_program

if __name__ == "__main__":
    run_program(main, result_is_printed=False)
