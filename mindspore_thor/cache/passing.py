"""Names that decide what a digest takes in: what no graph depends on, and what shows nothing."""

from __future__ import annotations

ROOMS = frozenset(
    ("capture", "curvature", "graph", "layers", "linalg", "methods", "optim", "parallel", "step")
)
"""The parts of this package whose code enters graphs."""

PASSING = frozenset(
    (
        *(
            "_param_prefix",
            "_scope",
            "_compile_phase",
            "compile_phase",
            "current_phase",
            "arguments_key",
        ),
        *("_create_time", "_compile_cache", "_phase_cache", "_id", "_exist_objs", "_exist_names"),
        *("_parameter_layout_dict", "_parallel_parameter_name_list", "_lazy_construct_sig"),
        *("_parallel_parameter_merge_net_dict", "_jit_graph_name", "_compiled", "_init_flag"),
        *("_is_check_and_refresh", "_cell_init_args", "_has_mutable_args_list", "is_top_cell"),
        *("_attr_synced", "_is_recursion_hook", "__parse_method__", "sequence_modified"),
    )
)
"""What MindSpore notes on a cell while it works; no graph depends on it."""

OF_GRADIENTS = frozenset(("grad_fn", "fn", "weights_id", "grad_hash_id"))
"""What it notes on an ``ops.GradOperation``."""

NOT_COMPILED = frozenset(("__init__", "__new__", "__repr__", "__del__", "extend_repr"))
"""Methods of a cell that no graph holds."""

OPEN_ENDED = frozenset(
    ("globals", "eval", "exec", "__import__", "import_module", "open", "environ", "getenv")
)
"""What a function may reach things with that nothing shows beforehand."""

CHANGING = frozenset(("random", "secrets", "time", "datetime", "uuid"))
"""Modules whose functions return something else at every call."""
