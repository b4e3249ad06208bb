"""Turn rows into a model's input: text from chat templates, token ids with the learned ones marked, and batches."""
