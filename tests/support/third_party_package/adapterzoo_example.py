"""One of the smallest possible methods: a third-party package, as the tests install it."""

from adapterzoo import LinearOptions, PeftMethod, hookimpl


class Example(PeftMethod):
    name = "example"
    summary = "rank 2, and that is all"
    paper = "https://arxiv.org/abs/2106.09685"
    options = LinearOptions
    learning_rate = 1e-3
    learning_rate_source = "a guess"

    def peft_config(self, model, options, context):
        from peft import LoraConfig

        return LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=options.target_modules)


@hookimpl
def adapterzoo_methods():
    return [Example()]
