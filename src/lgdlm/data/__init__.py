"""From text on disk to `Batch`: corpus, encoder, projection, tokenizer, the data folder and its loader."""
