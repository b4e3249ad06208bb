"""The format of question and answer."""

from adapterzoo.formats._format import Pair

FORMAT = Pair("a question and its answer", ("question", "answer"), answer="answer")
