"""One example row of every data format, with the turns that it contains."""

from __future__ import annotations

from typing import Any

U, A, S = "user", "assistant", "system"
SPOKEN = [{"role": S, "content": "Be brief."}, {"role": U, "content": "Hi"}, {"role": A, "content": "Hello"}]
EXAMPLES: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "qa": ({"question": "Hi", "answer": "Hello"}, [(U, "Hi"), (A, "Hello")]),
    "prompt_completion": ({"prompt": "Hi", "completion": "Hello"}, [(U, "Hi"), (A, "Hello")]),
    "input_output": ({"input": "Hi", "output": "Hello"}, [(U, "Hi"), (A, "Hello")]),
    "alpaca": (
        {"instruction": "Translate.", "input": "Hi", "output": "Hallo"},
        [(U, "Translate.\n\nHi"), (A, "Hallo")],
    ),
    "messages": ({"messages": SPOKEN}, [(S, "Be brief."), (U, "Hi"), (A, "Hello")]),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        [(U, "Hi"), (A, "Hello")],
    ),
    "text": ({"text": "  Once upon a time\n"}, [(A, "  Once upon a time\n")]),
}
