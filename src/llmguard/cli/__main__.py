"""`python -m llmguard.cli`."""

from __future__ import annotations

import sys

from llmguard.cli import main

sys.exit(main())
