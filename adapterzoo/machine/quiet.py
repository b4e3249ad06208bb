"""Keep the libraries quiet, so that what they print does not mix with the progress display."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

NOISY_LOGGERS = (
    "bitsandbytes", "peft", "accelerate", "datasets", "huggingface_hub", "lm_eval", "torchao", "torch.utils._pytree",
)  # fmt: skip


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the messages of transformers, PEFT and bitsandbytes out of the progress display."""
    import datasets
    from transformers.utils import logging as transformers_logging

    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    levels = {name: logging.getLogger(name).level for name in NOISY_LOGGERS}
    transformers_logging.set_verbosity_error()
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    # Accelerate imports DeepSpeed wherever it is installed, and its messages would go to stdout, among the results.
    deepspeed = logging.getLogger("DeepSpeed")
    was_disabled, deepspeed.disabled = deepspeed.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        deepspeed.disabled = was_disabled
        transformers_logging.set_verbosity(verbosity)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
