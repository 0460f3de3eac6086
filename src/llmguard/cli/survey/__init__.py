"""What lies in a folder, seen from outside: nothing of it is imported or run, of large files only the start is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmguard.cli.survey.code import Found, functions_in, requirements_in, sources_in
from llmguard.cli.survey.configs import Config, configs_in, output_folders_in
from llmguard.cli.survey.data import Data, data_in
from llmguard.cli.survey.models import Adapter, Model, adapters_in, models_in
from llmguard.cli.survey.tree import Tree, walk

__all__ = ["Adapter", "Config", "Data", "Found", "Model", "Survey", "Tree", "survey"]


@dataclass(frozen=True)
class Survey:
    """Everything found, each list with the likeliest first; paths are relative to the folder."""

    folder: Path
    data: list[Data]
    models: list[Model]
    adapters: list[Adapter]
    configs: list[Config]
    requirements: list[str]
    sources: list[str]
    functions: list[Found]
    outputs: list[str]
    complete: bool = True

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write about."""
        lists = (
            self.data,
            self.models,
            self.adapters,
            self.configs,
            self.requirements,
            self.sources,
            self.outputs,
        )
        return not any(lists)


def survey(folder: Path) -> Survey:
    """Look at a folder; what cannot be read is left out."""
    tree = walk(folder)
    models, adapters = models_in(tree), adapters_in(tree)
    rest = tree.without({m.path for m in models} | {a.path for a in adapters})
    configs = configs_in(rest)
    return Survey(
        folder=folder,
        data=data_in(rest),
        models=models,
        adapters=adapters,
        configs=configs,
        requirements=requirements_in(rest),
        sources=sources_in(rest),
        functions=functions_in(rest),
        outputs=output_folders_in(tree, configs),
        complete=tree.complete,
    )
