"""Imported before anything else by the programs here: one line where a package is missing."""

from mindspore_thor.command_line import need

need("mindspore", "yaml")
