"""What the checks on configs and sources cost: no training library, no numpy, no child for a config, a fraction of a second."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support.configs import Folder

AUDIT = """\
import json, sys, time
children = []
sys.addaudithook(lambda event, args: children.append(str(args[0])) if event in ("subprocess.Popen", "os.fork", "os.posix_spawn") else None)
from llmguard.auditing import Audit
from llmguard.project import load_project
started = time.process_time()
audit = Audit(load_project(sys.argv[1], environ={}))
results = [audit.run(e, t) for e, t in audit.plan() if {"config", "config_file", *sys.argv[2:]} & set(e.needs)]
print(json.dumps({
    "heavy": sorted({"torch", "transformers", "trl", "peft", "datasets", "numpy"} & set(sys.modules)),
    "children": children,
    "seconds": time.process_time() - started,
    "failed": sorted(r.check for r in results if r.outcome.value == "failed"),
    "broken": [r.reason for r in results if r.outcome.value == "error"],
}))
"""


def fresh(folder: Folder, *needs: str) -> dict[str, object]:
    """The audit of a project in a process of its own."""
    command = [sys.executable, "-c", AUDIT, str(folder.path / "llmguard.toml"), *needs]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_configs_are_judged_without_training_libraries_and_without_a_child(tmp_path: Path) -> None:
    """A TRL config, a LLaMA-Factory config and a plain one, all checks, in well under a second of processor time."""
    folder = Folder(tmp_path)
    folder.write(
        "trl.yaml",
        "output_dir: o\nper_device_train_batch_size: 0\nnum_train_epochs: 1\npacking: true\nlora_target_modules: [q]\n",
    )
    folder.write(
        "lf.yaml",
        "model_name_or_path: a/b\nstage: sft\nfinetuning_type: lora\ndataset: x\ntemplate: q\nlearning_rate: 1e-4\n",
    )
    folder.write("own.json", '{"epochs": null, "lr": 1e-4}')
    folder.rows("train.jsonl", 1000)
    folder.project(config='files = ["trl.yaml", "lf.yaml", "own.json"]', data='train = ["train.jsonl"]')
    found = fresh(folder)
    assert found["heavy"] == []
    assert found["children"] == []
    assert found["broken"] == []
    assert set(found["failed"]) >= {"every_config_value_has_its_type", "every_config_value_is_in_range"}  # type: ignore[call-overload]  # a list
    assert float(str(found["seconds"])) < 1.0


def test_sources_are_read_and_never_run(tmp_path: Path) -> None:
    """Importing them would end the test; only ruff and deptry, where they are installed, run beside."""
    folder = Folder(tmp_path)
    folder.write(
        "train.py", "import torch, transformers\nraise SystemExit('the source was run')\nprint(gone)\n"
    )
    folder.write("requirements.txt", "torch\ntransformers\n")
    folder.project(config="", environment='sources = ["train.py"]')
    found = fresh(folder, "sources")
    assert found["heavy"] == []
    assert found["broken"] == []
    assert "imports_are_declared" not in str(found["failed"])


def test_a_file_with_a_byte_order_mark_and_other_line_ends(tmp_path: Path) -> None:
    """As editors on other systems write it: read, with the right lines."""
    (tmp_path / "train.yaml").write_bytes(b"\xef\xbb\xbfepochs: 3\r\nlr: 1e-4\r\n")
    folder = Folder(tmp_path)
    folder.project()
    finding = folder.results()["every_config_value_has_its_type[train.yaml]"].findings[0]
    assert finding.where.line == 2
