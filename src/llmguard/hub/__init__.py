"""The local cache of a model hub: its documented layout, and what may be wrong in it."""

from llmguard.hub.cache import cache_folder, modules_folder, repository, snapshot

__all__ = ["cache_folder", "modules_folder", "repository", "snapshot"]
