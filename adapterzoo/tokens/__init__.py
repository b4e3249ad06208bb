"""From rows to what the model is called with: chat templates, token ids, what is learned, batches."""
