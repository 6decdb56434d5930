"""`python -m compresskit`: the command line."""

from __future__ import annotations

from compresskit.cli import main

main(prog_name="compresskit")
