"""The git repository that a project's code is in: whether it can still take a commit, and whether the code is in one."""
