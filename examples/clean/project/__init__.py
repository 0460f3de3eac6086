"""A fine-tuning project done right."""
