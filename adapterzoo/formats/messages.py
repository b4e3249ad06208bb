"""The format of conversations as OpenAI writes them: ``[{"role": "user", "content": "..."}, ...]``."""

from adapterzoo.formats._format import Conversation

FORMAT = Conversation("a conversation of role and content", ("messages",))
