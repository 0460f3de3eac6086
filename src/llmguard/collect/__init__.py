"""What runs in a supervised child: the real tokenizer is loaded and the user's own functions are called; columns come back.

    python -m llmguard.collect.child SPEC.json OUTDIR

The child imports torch, transformers and whatever the user's code imports; the process that checks imports none of it.
"""
