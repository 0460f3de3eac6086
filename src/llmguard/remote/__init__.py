"""Machines and servers that a project talks to, asked once, within a bound, and told apart by what they answer."""

from llmguard.remote.address import Address, address_of
from llmguard.remote.asking import Answer, Remote

__all__ = ["Address", "Answer", "Remote", "address_of"]
