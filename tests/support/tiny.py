"""The recipe on the tiny model that most tests write, and the seven methods of the quickstart."""

from __future__ import annotations

METHODS = ("lora", "qlora", "ia3", "loha", "lokr", "adalora", "oft")

RECIPE = """\
name: tiny
model:
  name: {model}
  dtype: float32
data:
  source: {data}
  columns: {{question: verb, answer: past}}
  split: {{train: 0.6, validation: 0.2, test: 0.2}}
  max_length: 64
train:
  steps: 6
  batch_size: 4
evaluate:
  batch_size: 8
  max_new_tokens: 4
  shots: 2
methods: [{methods}]
"""
