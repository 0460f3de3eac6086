"""The project file: what it may say, how it is found and read."""

from llmguard.project.load import FILE_NAME, find_project, is_project_file, load_project
from llmguard.project.project import SPLITS, Project

__all__ = ["FILE_NAME", "SPLITS", "Project", "find_project", "is_project_file", "load_project"]
