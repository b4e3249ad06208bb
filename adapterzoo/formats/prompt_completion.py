"""The format of prompt and completion, as OpenAI and TRL name them."""

from adapterzoo.formats._format import Pair

FORMAT = Pair("a prompt and its completion", ("prompt", "completion"), answer="completion")
