"""The format of conversations as ShareGPT writes them: ``[{"from": "human", "value": "..."}, ...]``."""

from adapterzoo.formats._format import Conversation

FORMAT = Conversation("a conversation of from and value", ("conversations",), role="from", content="value")
