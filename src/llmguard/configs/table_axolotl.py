"""The settings that axolotl knows, in the letters of `tables`; `tables.VERSIONS` says which version."""

from __future__ import annotations

__all__ = ["AXOLOTL"]

AXOLOTL = """
    debug=?o
    accelerator_config=?d activation_offloading=?bs adam_beta1=?f adam_beta2=?f adam_beta3=?f
    adam_epsilon=?f adam_epsilon2=?f adapter=?s added_tokens_overrides=?d api_key=?s attn_implementation=?s
    auto_find_batch_size=?b auto_resume_from_checkpoints=?b axolotl_config_path=?s backend=s base_model=s
    base_model_config=?s base_url=?s batch_flattening=?bs batch_size=?i bench_dataset=?s bench_split=?s
    bf16=?bs bfloat16=?b bnb_config_kwargs=?d center_rewards_coefficient=?f chat_template=?os
    chat_template_jinja=?s chat_template_kwargs=?d chunked_cross_entropy=?b
    chunked_cross_entropy_num_chunks=?i cls_model_config=?s comet_api_key=?s comet_experiment_config=?d
    comet_experiment_key=?s comet_mode=?s comet_online=?b comet_project_name=?s comet_workspace=?s
    context_parallel_size=?i cosine_constant_lr_ratio=?f cosine_min_lr_ratio=?f cpo_alpha=?f
    curriculum_sampling=?b cut_cross_entropy=?b dataloader_drop_last=?b dataloader_num_workers=?i
    dataloader_pin_memory=?b dataloader_prefetch_factor=?i dataset_exact_deduplication=?b
    dataset_keep_in_memory=?b dataset_num_proc=?i dataset_prepared_path=?s dataset_processes=?i
    dataset_shard_idx=?i dataset_shard_num=?i datasets=?l ddp=?b ddp_broadcast_buffers=?b
    ddp_bucket_cap_mb=?i ddp_find_unused_parameters=?b ddp_timeout=?i deepcompile=?b deepspeed=?ds
    default_system_message=?s dense_mixer=b device=?o device_map=?o diffusion=o dion_lr=?f dion_momentum=?f
    dion_rank_fraction=?f dion_rank_multiple_of=?i do_bench_eval=?b do_causal_lm_eval=?b
    dp_replicate_size=?i dp_shard_size=?i dpo_beta=?f dpo_generate_during_eval=?b dpo_label_smoothing=?f
    dpo_loss_type=?l dpo_loss_weights=?l dpo_norm_loss=?b dpo_padding_free=?b dpo_use_liger_kernel=?b
    dpo_use_logits_to_keep=?b dpo_use_weighting=?b dsv4_bf16_all=?b dsv4_fp4_grouped_mode=?s
    dsv4_fp8_lora_kernel=?b dsv4_fp8_nonexpert_mode=?s dsv4_shared_mlp_lora_kernel=?b dynamic_checkpoint=?o
    eaft_alpha=?f eaft_k=?i eager_attention=?b early_stopping_patience=?i ebft=?o embedding_lr=?f
    embedding_lr_scale=?f embeddings_skip_upcast=?b eot_tokens=?l eps=f eval_batch_size=?i
    eval_causal_lm_metrics=?l eval_max_new_tokens=?i eval_sample_packing=?b eval_sequence_len=?i
    eval_steps=?fi eval_strategy=?s eval_table_size=?i evals_per_epoch=?i evaluation_strategy=?s
    excess_length_strategy=?s experimental_skip_move_to_device=?b expert_backend=?s
    expert_parallel_backend=s expert_parallel_fallback_on_unsupported=b expert_parallel_num_nvl_bytes=i
    expert_parallel_num_rdma_bytes=i expert_parallel_size=i expert_parallel_token_capacity=?i
    experts_implementation=?s fix_untrained_tokens=?il flash_attention=?b flash_attn_cross_entropy=?b
    flash_attn_d512=?b flash_attn_fuse_mlp=?b flash_attn_rms_norm=?b flash_optimum=?b flex_attention=?b
    flex_attn_compile_kwargs=?d float16=?b float32=?b fp16=?b fp32_norm_classes=?l fp32_norms=?b fp8=?b
    fp8_config=?o fp8_enable_fsdp_float8_all_gather=?b freeze_mm_modules=?b fsdp=?l fsdp_config=?o
    fsdp_final_state_dict_type=?s fsdp_version=?i fused_attn_kernel=?b future_timeout=f gc_collect_steps=?i
    gc_steps=?i gemma4_fp8_nonexpert=?b gemma4_hybrid_attn_impl=?b gemma4_nf4_nonexpert=?b
    generate_samples=b generation_do_sample=?b generation_interval=i generation_max_length=i
    generation_max_new_tokens=?i generation_prompt_ratio=?f generation_steps=i generation_temperature=f
    generation_top_k=?i generation_top_p=?f gptq=?b gpu_memory_limit=?is gradient_accumulation_steps=?i
    gradient_checkpointing=?bs gradient_checkpointing_kwargs=?d gradio_max_new_tokens=?i
    gradio_server_name=?s gradio_server_port=?i gradio_share=?b gradio_temperature=?f gradio_title=?s
    greater_is_better=?b grokfast_alpha=?f grokfast_lamb=?f group_by_length=?b hatchery=?o heads_k_stride=?i
    hf_mlflow_log_artifacts=?b hf_use_auth_token=?b hub_model_id=?s hub_revision=?s hub_strategy=?s
    image_resize_algorithm=?os image_size=?il importance_weighting=b include_tkps=?b
    include_tokens_per_second=?b is_falcon_derived_model=?b is_llama_derived_model=?b
    is_mistral_derived_model=?b is_preprocess=?b is_qwen_derived_model=?b jagged_restart_anneal_steps=?i
    jagged_restart_steps=?i jagged_restart_warmup_steps=?i kd_alpha=?f kd_beta=?f kd_ce_alpha=?f
    kd_normalize_topk=?f kd_online_server=?o kd_online_server_base_url=?s kd_online_timeout=?i
    kd_online_topk=?i kd_temperature=?f kd_temperature_min=?f kd_trainer=?f kto_desirable_weight=?f
    kto_undesirable_weight=?f large_head_attention=?s layer_offloading=?b learning_rate=fs
    liger_cross_entropy=?b liger_fused_linear_cross_entropy=?b liger_glu_activation=?b liger_kernel_impl=?s
    liger_layer_norm=?b liger_rms_norm=?b liger_rms_norm_gated=?b liger_rope=?b liger_swiglu=?b
    liger_use_token_scaling=?b lisa_layers_attribute=?s lisa_n_layers=?i lisa_step_interval=?i
    llama4_linearized_experts=?b llmcompressor=o lm_eval_batch_size=?i lm_eval_model=?s
    lm_eval_post_train=?b lm_eval_tasks=l load_best_model_at_end=?b load_in_4bit=?b load_in_8bit=?b
    local_rank=?i logging_steps=?i lora_alpha=?i lora_alpha_pattern=?d lora_dropout=?f
    lora_embedding_kernel=?b lora_fan_in_fan_out=?b lora_mlp_kernel=?b lora_model_dir=?s
    lora_modules_to_save=?l lora_o_kernel=?b lora_on_cpu=?b lora_qkv_kernel=?b lora_r=?i lora_rank=i
    lora_rank_pattern=?d lora_target_linear=?b lora_target_modules=?ls lora_target_parameters=?ls
    loraplus_lr_embedding=?f loraplus_lr_ratio=?f loss_fn=s loss_fn_config=?d loss_watchdog_patience=?i
    loss_watchdog_threshold=?f low_cpu_mem_usage=?b lr_div_factor=?f lr_groups=?l lr_quadratic_warmup=?b
    lr_scheduler=?s lr_scheduler_kwargs=?d mask_token_id=?i mask_token_str=?s max_grad_norm=?f
    max_mask_ratio=f max_memory=?d max_packed_sequence_len=?i max_prompt_len=?i max_sample_tokens=i
    max_steps=?i mean_resizing_embeddings=?b merge_lora=?b merge_method=?s metric_for_best_model=?s
    micro_batch_size=?i min_mask_ratio=f min_sample_len=?i mlflow_experiment_name=?s mlflow_run_name=?s
    mlflow_tracking_uri=?s model_config=?o model_kwargs=?o model_quantization_config=?s
    model_quantization_config_kwargs=?d model_revision=?o model_type=?o moe_bnb_fast=?b
    moe_dequant_chunk_size=?i moe_grouped_backend=?s mora=o mora_type=o multipack_real_batches=?b
    neftune_noise_alpha=?f nemo_gym_auto_clone=?b nemo_gym_auto_start=?b nemo_gym_config_paths=?l
    nemo_gym_datasets=?l nemo_gym_dir=?s nemo_gym_enabled=?b nemo_gym_head_port=?i nemo_gym_max_turns=?i
    nemo_gym_model_name=?s nemo_gym_multi_turn=?b nemo_gym_run_timeout=?i nemo_gym_server_timeout=?i
    nemo_gym_verify_timeout=?i noise_schedule=s noisy_embedding_alpha=?f nonexpert_quantization=?s
    num_dataset_shards_to_save=?i num_diffusion_steps=i num_epochs=f num_generation_samples=i num_labels=?i
    num_samples=i nvfp4_merge_aware=?b nvfp4_merge_aware_start_step=?fi optim_args=?ds
    optim_target_modules=?ls optimizer=?os orpo_alpha=?f otel_metrics_host=?s otel_metrics_port=?i
    output_dir=s overrides_of_model_config=?d overrides_of_model_kwargs=?d pad_to_multiple_of=?i
    pad_to_sequence_len=?b peft=?o peft_autocast_adapter_dtype=?b peft_ensure_weight_tying=?b
    peft_init_lora_weights=?bs peft_layer_replication=?l peft_layers_pattern=?l peft_layers_to_transform=?l
    peft_trainable_token_indices=?dl peft_use_dora=?b peft_use_rslora=?b pipeline=b ple_cpu_offload=b
    plugins=?l pose_max_context_len=?i pose_num_chunks=?i pose_split_on_token_ids=?l
    precompute_ref_log_probs=?b preprocess_iterable=?b pretrain_multipack_attn=?b
    pretrain_multipack_buffer_size=?i pretraining_dataset=?l pretraining_sample_concatenation=?b
    process_reward_model=?b processor_kwargs=?d processor_type=?s profiler_steps=?i profiler_steps_start=?i
    project_id=?s push_dataset_to_hub=?s qat=?o qgalore_cos_threshold=?f qgalore_gamma_proj=?i
    qgalore_proj_bits=?i qgalore_proj_group_size=?i qgalore_proj_quant=?b qgalore_proj_type=?s
    qgalore_queue_size=?i qgalore_rank=?i qgalore_scale=?f qgalore_update_proj_gap=?i
    qlora_sharded_model_loading=?b quantization=?o quantize_moe_experts=b ray_num_workers=i ray_run_name=?s
    recipe=o reinit_weights=?b relora=?b relora_cpu_offload=?b relora_prune_method=?s relora_prune_ratio=?f
    remove_unused_columns=?b resize_token_embeddings_to_32x=?b resources_per_worker=d
    resume_from_checkpoint=?s revision_of_model=?s reward_funcs=?l reward_model=?b ring_attn_func=?o rl=?o
    rl_beta=?f role_boundaries=?l rope_scaling=?o rpo_alpha=?f s2_attention=?b sage_attention=?b
    sample_packing=?b sample_packing_bin_size=?i sample_packing_eff_est=?f sample_packing_group_size=?i
    sample_packing_mp_start_method=?s sample_packing_sequentially=?b sample_temperature=f save_compressed=b
    save_first_step=?b save_name_prefix=s save_only_model=?b save_safetensors=?b save_steps=?i
    save_strategy=?s save_total_limit=?i saves_per_epoch=?i scaling_softmax=?b scaling_softmax_bias=?f
    scaling_softmax_factor=?f sdp_attention=?b sdpa_varlen=?b seed=?i selective_checkpointing=?bo
    sequence_len=i sequence_parallel_degree=?i shrink_embeddings=?b shuffle_before_merging_datasets=?b
    shuffle_merged_datasets=?b simpo_gamma=?f skip_prepare_dataset=?b special_tokens=?o
    spectrum_model_name=?s spectrum_top_fraction=?f streaming=?b streaming_multipack_buffer_size=?i
    strict=?b swanlab_api_host=?s swanlab_api_key=?s swanlab_completion_log_interval=?i
    swanlab_completion_max_buffer=?i swanlab_description=?s swanlab_experiment_name=?s
    swanlab_lark_secret=?s swanlab_lark_webhook_url=?s swanlab_log_completions=?b swanlab_log_model=?b
    swanlab_mode=?s swanlab_project=?s swanlab_web_host=?s swanlab_workspace=?s tensor_parallel_size=?i
    test_datasets=?l tf32=?bs tiled_mlp=?b tiled_mlp_num_shards=?i tiled_mlp_use_original_mlp=?b
    tokenizer_config=?s tokenizer_legacy=?b tokenizer_save_jinja_files=?b tokenizer_type=?s
    tokenizer_use_fast=?b tokenizer_use_mistral_common=?b tokens=?l torch_compile=?bs
    torch_compile_backend=?s torch_compile_mode=?s torch_compile_options=?d torch_empty_cache_steps=?i
    torchdistx_path=?s total_num_tokens=?i total_supervised_tokens=?i trackio_project_name=?s
    trackio_run_name=?s trackio_space_id=?s train_attn=b train_mlp=b train_on_inputs=?b train_unembed=b
    trainer_cls=?s trl=?o trust_remote_code=?b type_of_model=?s unfrozen_parameters=?l use_comet=?b
    use_dsv4_kernels=?b use_eaft=?b use_glm_dsa_kernels=?b use_kernels=?b use_mlflow=?b use_mora=b
    use_onebitllms=?b use_otel_metrics=?b use_pose=?b use_ray=b use_scattermoe=?b use_sonicmoe=?b
    use_swanlab=?b use_tensorboard=?b use_trackio=?b use_wandb=?b val_set_size=?f vllm=?o wandb_entity=?s
    wandb_log_model=?s wandb_mode=?s wandb_name=?s wandb_project=?s wandb_run_id=?s wandb_watch=?s
    warmup_ratio=?f warmup_steps=?i weight_decay=?f world_size=?i xformers_attention=?b
"""
"""The top level of a config, the keys of its bundled integrations included."""
