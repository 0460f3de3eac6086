"""The ledger of bugs: one regression a bug, told as a story, with a witness, and a check that rejects it and accepts its fix."""

from llmguard.ledger.search import Found, find
from llmguard.ledger.stories import (
    FIELDS,
    ROLES,
    Story,
    known_stories,
    read_stories,
    read_story,
    role_of,
    slug_of,
    twice,
)
from llmguard.ledger.template import Issue, issue_of, template

__all__ = [
    "FIELDS", "ROLES", "Found", "Issue", "Story", "find", "issue_of", "known_stories", "read_stories", "read_story", "role_of",
    "slug_of", "template", "twice",
]  # fmt: skip
