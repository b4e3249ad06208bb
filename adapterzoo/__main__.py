"""Run the command line with ``python -m adapterzoo``."""

from adapterzoo.cli import main

main(prog_name="adapterzoo")
