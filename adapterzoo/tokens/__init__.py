"""Turn rows into what a model is called with: text by chat templates, token ids, learned tokens, batches."""
