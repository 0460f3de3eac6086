"""The checks, one module a family; `llmguard.catalogue` lists them."""
