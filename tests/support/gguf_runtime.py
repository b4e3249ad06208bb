"""Ask GGUF files with llama.cpp, which the package xllamacpp brings."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest


class Runtime:
    """A server of llama.cpp in this process, with one model and perhaps an adapter on it."""

    def __init__(self, model: Path, adapter: Path | None = None) -> None:
        xllamacpp = pytest.importorskip("xllamacpp")
        settings = xllamacpp.CommonParams()
        settings.model.path = str(model)
        settings.n_ctx, settings.n_parallel, settings.warmup = 256, 1, False
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
        if adapter is not None:
            settings.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
        self.server = xllamacpp.Server(settings)

    def answer(self, prompt: Sequence[int], max_tokens: int) -> str:
        """Return the likeliest answer to the token ids of a prompt."""
        asked = {"prompt": list(prompt), "max_tokens": max_tokens, "temperature": 0, "cache_prompt": False}
        return str(self.server.handle_completions(asked)["choices"][0]["text"])

    def tokens(self, text: str) -> list[int]:
        """Return the token ids of a text as a prompt."""
        found = self._post("tokenize", {"content": text, "add_special": True, "parse_special": True})
        return [int(token) for token in found["tokens"]]

    def prompt(self, messages: Sequence[dict[str, str]]) -> str:
        """Return what the chat template in the file makes of messages."""
        return str(self._post("apply-template", {"messages": list(messages)})["prompt"])

    def _post(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.server.listening_address}/{path}", json.dumps(content).encode())
        with urllib.request.urlopen(request, timeout=60) as reply:
            answer: dict[str, Any] = json.load(reply)
        return answer
