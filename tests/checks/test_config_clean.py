"""Configs that people train with: nothing is wrong with them, and nothing is said to be."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.configs import Folder, of

from llmguard.catalogue import CHECKS

CLEAN = {
    "transformers.yaml": """\
        # Trainer, read by HfArgumentParser
        model_name_or_path: Qwen/Qwen2.5-0.5B
        output_dir: out/run-1
        learning_rate: 2.0e-5
        num_train_epochs: 3
        per_device_train_batch_size: 4
        per_device_eval_batch_size: 256
        gradient_accumulation_steps: 8
        warmup_steps: 0.03
        lr_scheduler_type: cosine
        optim: adamw_torch_fused
        weight_decay: 0.1
        bf16: true
        save_strategy: "no"
        eval_strategy: "no"
        logging_steps: 0.01
        max_steps: -1
        report_to: none
        gradient_checkpointing: true
        gradient_checkpointing_kwargs:
          use_reentrant: false
          batch_size: 0
        seed: 0
        dataloader_num_workers: 0
        """,
    "best.yaml": """\
        output_dir: out
        learning_rate: 1.0e-4
        per_device_train_batch_size: 8
        num_train_epochs: 0.5
        eval_strategy: steps
        eval_steps: 200
        save_strategy: steps
        save_steps: 400
        load_best_model_at_end: true
        metric_for_best_model: eval_loss
        greater_is_better: false
        save_total_limit: null
        """,
    "trl_sft.yaml": """\
        model_name_or_path: meta-llama/Llama-3.1-8B
        dtype: bfloat16
        use_peft: true
        lora_r: 64
        lora_alpha: 16
        lora_dropout: 0.05
        lora_target_modules: [q_proj, k_proj, v_proj, o_proj]
        dataset_name: HuggingFaceH4/ultrachat_200k
        dataset_train_split: train_sft
        max_length: null
        packing: true
        assistant_only_loss: true
        learning_rate: 2.0e-04
        num_train_epochs: 1
        per_device_train_batch_size: 2
        gradient_accumulation_steps: 16
        lr_scheduler_type: cosine_with_min_lr
        lr_scheduler_kwargs: {min_lr_rate: 0.1}
        bf16: true
        report_to: [wandb]
        save_strategy: epoch
        output_dir: data/llama-sft
        run_name: 7
        """,
    "trl_dpo.yaml": """\
        model_name_or_path: alignment-handbook/zephyr-7b-sft-full
        dataset_name: HuggingFaceH4/ultrafeedback_binarized
        beta: 0.01
        max_length: 1024
        precompute_ref_log_probs: false
        learning_rate: 5.0e-7
        num_train_epochs: 1
        per_device_train_batch_size: 8
        gradient_accumulation_steps: 2
        bf16: true
        output_dir: out/dpo
        """,
    "trl_grpo.yaml": """\
        model_name_or_path: Qwen/Qwen2.5-1.5B-Instruct
        dataset_name: trl-lib/DeepMath-103K
        beta: 0.0
        num_generations: 8
        max_completion_length: 1024
        use_vllm: true
        learning_rate: 3.0e-7
        max_steps: 500
        save_steps: 100
        per_device_train_batch_size: 8
        gradient_accumulation_steps: 4
        bf16: true
        output_dir: out/grpo
        """,
    "axolotl_lora.yml": """\
        base_model: NousResearch/Llama-3.2-1B
        model_type: AutoModelForCausalLM
        load_in_8bit: false
        load_in_4bit: true
        datasets:
          - path: teknium/GPT4-LLM-Cleaned
            type: alpaca
        dataset_prepared_path: last_run_prepared
        val_set_size: 0.1
        output_dir: ./outputs/lora-out
        adapter: qlora
        lora_model_dir:
        sequence_len: 2048
        sample_packing: true
        eval_sample_packing: false
        lora_r: 32
        lora_alpha: 16
        lora_dropout: 0.05
        lora_target_linear: true
        wandb_project:
        wandb_entity:
        gradient_accumulation_steps: 2
        micro_batch_size: "2"
        num_epochs: 1
        optimizer: adamw_8bit
        lr_scheduler: cosine
        learning_rate: 2e-4
        bf16: auto
        fp16:
        tf32: false
        gradient_checkpointing: unsloth
        resume_from_checkpoint:
        logging_steps: 1
        flash_attention: true
        warmup_ratio: 0.1
        evals_per_epoch: 4
        saves_per_epoch: 1
        debug:
        deepspeed: deepspeed_configs/zero2.json
        weight_decay: 0.0
        fsdp:
        special_tokens:
          pad_token: "<|end_of_text|>"
        """,
    "axolotl_full.yml": """\
        base_model: google/gemma-3-1b-it
        chat_template: gemma3
        datasets:
          - path: cgato/SlimOrcaDedupCleaned
            type: chat_template
            field_messages: conversations
            message_property_mappings: {role: from, content: value}
        val_set_size: 0
        output_dir: ./outputs/full
        sequence_len: 1024
        adapter:
        micro_batch_size: 1
        eval_batch_size: 1
        gradient_accumulation_steps: 4
        num_epochs: 1
        max_steps: 1000
        evaluation_strategy: "no"
        optimizer: muon
        lr_scheduler: one_cycle
        learning_rate: 0.02
        bf16: auto
        warmup_steps: 100
        weight_decay: 0.0
        """,
    "llamafactory_sft.yaml": """\
        ### model
        model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
        trust_remote_code: true
        ### method
        stage: sft
        do_train: true
        finetuning_type: lora
        lora_rank: 8
        lora_target: all
        deepspeed: examples/deepspeed/ds_z3_config.json
        ### dataset
        dataset: identity,alpaca_en_demo
        template: llama3
        cutoff_len: 2048
        max_samples: 1000
        overwrite_cache: true
        preprocessing_num_workers: 16
        ### output
        output_dir: saves/llama3-8b/lora/sft
        logging_steps: 10
        save_steps: 500
        plot_loss: true
        overwrite_output_dir: true
        report_to: none
        ### train
        per_device_train_batch_size: 1
        gradient_accumulation_steps: 8
        learning_rate: 1.0e-4
        num_train_epochs: 3.0
        lr_scheduler_type: cosine
        warmup_ratio: 0.1
        bf16: true
        ddp_timeout: 180000000
        resume_from_checkpoint: null
        ### eval
        val_size: 0.1
        per_device_eval_batch_size: 1
        eval_strategy: steps
        eval_steps: 500
        """,
    "llamafactory_predict.yaml": """\
        model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
        stage: sft
        do_predict: true
        finetuning_type: full
        dataset: identity
        template: llama3
        cutoff_len: 1024
        max_length: 64
        num_train_epochs: 0
        output_dir: saves/predict
        per_device_eval_batch_size: 1
        predict_with_generate: true
        """,
    "own_nested.yaml": """\
        experiment: seasons
        model:
          name: Qwen/Qwen2.5-0.5B
          dtype: bfloat16
        lora: {enabled: true, r: 16, alpha: 32, dropout: 0.05, target_modules: [q_proj, v_proj]}
        training:
          lr: 3.0e-4
          epochs: 4
          batch_size: 8
          grad_accum: 4
          max_seq_len: 1024
          warmup: 50
          scheduler: cosine
          early_stopping: {patience: 3, min_delta: 0.0}
        evaluation:
          batch_size: 512
          max_length: 32
        generation: {max_length: 64, temperature: 0.0, top_p: 1.0}
        sweep:
          learning_rate: [1.0e-5, 3.0e-2]
        logging: {wandb: off, every: 10}
        """,
    "own_flat.json": """\
        {"base_model": "huggyllama/llama-7b", "data_path": "yahma/alpaca-cleaned", "output_dir": "./lora-alpaca",
         "batch_size": 256, "micro_batch_size": 4, "num_epochs": 3, "learning_rate": 3e-4, "cutoff_len": 256,
         "val_set_size": 2000, "lora_r": 8, "lora_alpha": 16, "lora_target_modules": ["q_proj", "v_proj"],
         "train_on_inputs": true, "resume_from_checkpoint": null, "wandb_project": "", "max_steps": null}
        """,
    "own_stages.toml": """\
        seed = 13
        [model]
        name_or_path = "gpt2"
        [sft]
        learning_rate = 2e-5
        num_epochs = 3
        batch_size = 16
        [dpo]
        learning_rate = 5e-7
        num_epochs = 1
        batch_size = 4
        beta = 0.1
        """,
    "own_open.yaml": """\
        model_path: ${oc.env:MODEL_DIR}/base
        learning_rate: ${lr}
        batch_size: "{{ batch }}"
        train_file: $DATA/train.jsonl
        epochs: !include epochs.yaml
        optimizer: {name: prodigy, lr: 1.0}
        """,
    "own_prompt_tuning.yaml": """\
        model_name: bigscience/bloomz-560m
        peft_type: PROMPT_TUNING
        learning_rate: 3.0e-2
        num_epochs: 50
        batch_size: 8
        """,
    "ds_config.json": """\
        {"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto",
         "optimizer": {"type": "AdamW", "params": {"lr": "auto"}}, "zero_optimization": {"stage": 3},
         "fp16": {"enabled": "auto"}}
        """,
    "accelerate.yaml": """\
        compute_environment: LOCAL_MACHINE
        distributed_type: FSDP
        downcast_bf16: 'no'
        mixed_precision: bf16
        num_processes: 8
        fsdp_config: {fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP}
        """,
    "adapter_config.json": """\
        {"peft_type": "LORA", "base_model_name_or_path": "./gone", "r": 2048, "lora_alpha": 0, "lora_dropout": 1.0,
         "task_type": "CAUSAL_LM", "target_modules": ["q_proj"]}
        """,
}
FOREIGN = {"ds_config.json", "accelerate.yaml", "adapter_config.json"}


@pytest.mark.parametrize("name", CLEAN)
def test_no_error_and_no_warning(name: str, tmp_path: Path) -> None:
    """Not one check of the family has anything against a config that works."""
    found = of(Folder(tmp_path).config(CLEAN[name], name))
    assert found == {}, {check: [f.message for f in findings] for check, findings in found.items()}


@pytest.mark.parametrize("name", CLEAN)
def test_each_is_really_looked_at(name: str, tmp_path: Path) -> None:
    """The silence above is no blindness: settings are judged in every training config, and none elsewhere."""
    results = Folder(tmp_path).config(CLEAN[name], name)
    assert results["config_file_is_readable"].outcome.value == "passed"
    seen = results["every_config_value_has_its_type"].looked_at
    assert seen == 0 if name in FOREIGN else seen >= 3


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_a_file_of_another_kind_is_named_and_left_alone(name: str, tmp_path: Path) -> None:
    """A DeepSpeed, Accelerate or adapter file among the configs is said to be none."""
    results = Folder(tmp_path).config(CLEAN[name], name)
    notes = of(results, "note")["config_file_is_readable"]
    assert "no config of a training run" in notes[0].message
    assert results["every_config_key_is_known"].outcome.value == "skipped"


def test_what_only_newer_libraries_refuse_is_no_error(tmp_path: Path) -> None:
    """A config for transformers 4, whose names version 5 dropped, is a warning with the new name; nothing fails."""
    found = of(
        Folder(tmp_path).config(
            """\
            output_dir: out
            overwrite_output_dir: true
            learning_rate: 2.0e-5
            num_train_epochs: 3
            per_device_train_batch_size: 4
            warmup_ratio: 0.03
            """
        ),
        "error",
    )
    assert found == {}


def test_all_of_them_in_one_project(tmp_path: Path) -> None:
    """Each file of one project keeps its own dialect."""
    folder = Folder(tmp_path)
    for name, text in CLEAN.items():
        folder.write(f"configs/{name}", text)
    folder.project(config='files = ["configs/*.y*ml", "configs/*.json", "configs/*.toml"]')
    results = folder.results()
    assert of(results) == {}
    checks = [entry.name for entry in CHECKS if entry.over == "config" and entry.family == "config"]
    assert len(results) == len(checks) * len(CLEAN)


WHOLE = """\
model_name_or_path: ./base
learning_rate: 1.0e-4
num_train_epochs: 3
per_device_train_batch_size: 4
gradient_accumulation_steps: 2
warmup_steps: 3
save_steps: 10
max_length: 512
lora_r: 8
lora_alpha: 16
output_dir: out
bf16: true
train_file: rows.jsonl
"""


def test_on_a_config_with_everything_no_check_says_that_there_was_nothing(tmp_path: Path) -> None:
    """Each of them passes, which it only does where it looked at something: one that sees nothing is skipped, and says so."""
    folder = Folder(tmp_path)
    folder.rows("rows.jsonl", 64)
    folder.write("base/config.json", '{"max_position_embeddings": 2048}')
    results = folder.config(WHOLE, data='train = "rows.jsonl"', pipeline="max_length = 512")
    told = {name: (result.outcome.value, result.reason) for name, result in results.items()}
    assert {name for name, (outcome, _) in told.items() if outcome != "passed"} == set(), told
    assert len(told) >= 15
