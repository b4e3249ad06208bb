"""The format of input and output."""

from adapterzoo.formats._format import Pair

FORMAT = Pair("an input and its output", ("input", "output"), answer="output")
