"""A fine-tuning project with planted bugs; see BUGS.md."""
