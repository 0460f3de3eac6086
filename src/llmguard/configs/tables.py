"""The settings that training libraries know, for where they are not installed; every table says its version.

`name=kinds`, a letter a kind: i int, f float, b bool, s text, l list, d mapping, o other, ? may be None.
"""

from __future__ import annotations

__all__ = [
    "LLAMAFACTORY",
    "OPTIMIZERS",
    "SCHEDULERS",
    "SEQ2SEQ",
    "TRANSFORMERS",
    "TRANSFORMERS_4",
    "TRL",
    "TRL_0",
    "VERSIONS",
]

VERSIONS = {"transformers": "5.23.0", "trl": "1.16.0", "llamafactory": "0.9.5", "axolotl": "0.19.0"}

TRANSFORMERS = """
    accelerator_config=?ds activation_checkpointing=?b activation_checkpointing_kwargs=?ds adam_beta1=f
    adam_beta2=f adam_epsilon=f auto_find_batch_size=b average_tokens_across_devices=b batch_eval_metrics=b
    bf16=b bf16_full_eval=b data_seed=?i dataloader_drop_last=b dataloader_in_order=b
    dataloader_multiprocessing_context=?s dataloader_num_workers=i dataloader_persistent_workers=b
    dataloader_pin_memory=b dataloader_prefetch_factor=?i ddp_backend=?s ddp_broadcast_buffers=?b
    ddp_bucket_cap_mb=?i ddp_find_unused_parameters=?b ddp_static_graph=?b ddp_timeout=i debug=ls
    deepspeed=?ds disable_tqdm=?b do_eval=b do_predict=b do_train=b enable_jit_checkpoint=b
    eval_accumulation_steps=?i eval_delay=f eval_do_concat_batches=b eval_on_start=b eval_steps=?f
    eval_strategy=os eval_use_gather_object=b fp16=b fp16_full_eval=b fsdp=?s fsdp_config=?ds
    full_determinism=b gradient_accumulation_steps=i gradient_checkpointing=?b
    gradient_checkpointing_kwargs=?ds greater_is_better=?b hub_always_push=b hub_model_id=?s
    hub_private_repo=?b hub_revision=?s hub_strategy=os hub_token=?s ignore_data_skip=b
    include_for_metrics=l include_num_input_tokens_seen=bs label_names=?l label_smoothing_factor=f
    learning_rate=f length_column_name=s liger_kernel_config=?d load_best_model_at_end=b local_rank=i
    log_level=s log_level_replica=s log_on_each_node=b logging_first_step=b logging_nan_inf_filter=b
    logging_steps=f logging_strategy=os lr_scheduler_kwargs=?ds lr_scheduler_type=os max_grad_norm=f
    max_steps=i metric_for_best_model=?s neftune_noise_alpha=?f num_train_epochs=f optim=os optim_args=?s
    optim_target_modules=?ls output_dir=?s parallelism_config=?o per_device_eval_batch_size=i
    per_device_train_batch_size=i prediction_loss_only=b project=s push_to_hub=b remove_unused_columns=b
    report_to=?ls restore_callback_states_from_checkpoint=b resume_from_checkpoint=?s run_name=?s
    save_on_each_node=b save_only_model=b save_steps=f save_strategy=os save_total_limit=?i seed=i
    skip_memory_metrics=b tf32=?b torch_compile=b torch_compile_backend=?s torch_compile_mode=?s
    torch_empty_cache_steps=?i trackio_bucket_id=?s trackio_space_id=?s trackio_static_space_id=?s
    train_sampling_strategy=s use_cache=b use_cpu=b use_liger_kernel=b warmup_steps=f weight_decay=f
"""

TRANSFORMERS_4 = """
    adafactor=b dispatch_batches=?b evaluation_strategy=?os fp16_backend=s fp16_opt_level=s
    fsdp_min_num_params=i fsdp_transformer_layer_cls_to_wrap=?s group_by_length=b half_precision_backend=s
    include_inputs_for_metrics=b include_tokens_per_second=b jit_mode_eval=b logging_dir=?s mp_parameters=s
    no_cuda=b overwrite_output_dir=b past_index=i per_gpu_eval_batch_size=?i per_gpu_train_batch_size=?i
    push_to_hub_model_id=?s push_to_hub_organization=?s push_to_hub_token=?s ray_scope=?s save_safetensors=b
    split_batches=?b torchdynamo=?s tpu_metrics_debug=b tpu_num_cores=?i use_ipex=b
    use_legacy_prediction_loop=b use_mps_device=b warmup_ratio=f
"""
"""Arguments of transformers 4.45 to 4.57 that version 5 no longer takes."""

SEQ2SEQ = """
    generation_config=?so generation_max_length=?i generation_num_beams=?i predict_with_generate=b sortish_sampler=b
"""
"""What Seq2SeqTrainingArguments adds."""

TRL = """
    activation_offloading=b add_tail_bucket=b alpha=f assistant_only_loss=b attn_implementation=?s beta=f
    beta1=f beta2=f bnb_4bit_quant_storage=?s bnb_4bit_quant_type=s cache_implementation=?s callbacks=l
    cast_lm_head_to_fp32=b center_rewards_coefficient=?f chat_template_kwargs=?d chat_template_path=?s
    completion_only_loss=?b cpo_alpha=f dataset_config=?s dataset_kwargs=?ds dataset_name=?s
    dataset_num_proc=?i dataset_streaming=b dataset_test_split=s dataset_text_field=s dataset_train_split=s
    datasets=l delta=?f desirable_weight=f diagnostics_flat_tolerance=f diagnostics_warning_interval=i
    disable_dropout=b discopop_tau=f distillation_add_tail=b distillation_alpha=f distillation_is_clip=?f
    distillation_mode=s distillation_objective=s distillation_topk=?i distillation_weight=f
    dont_reprompt_on_self_success=b ds3_gather_for_generation=b dtype=s entropy_coef=f entropy_coef_delta=f
    entropy_coef_max=f entropy_coef_min=f entropy_target=f environment_feedback_only_without_solution=b
    eos_token=?s epsilon=f epsilon_high=?f eval_packing=?b f_alpha_divergence_coef=f f_divergence_type=s
    feedback_template=s filter_all_incorrect=b fork_threshold_tokens=i generate_during_eval=b
    generate_from_teacher=b generation_batch_size=?i generation_kwargs=?d heartbeat_stale_after_s=f
    ignore_bias_buffers=b importance_sampling_level=s include_environment_feedback=b is_encoder_decoder=?b
    iw_opd_epsilon=f iw_opd_gamma=f label_smoothing=f ld_alpha=?f lmbda=f load_in_4bit=b load_in_8bit=b
    log_completions=b log_completions_hub_repo=?s log_completions_steps=i log_multimodal=b
    log_unique_prompts=b lora_alpha=i lora_dropout=f lora_modules_to_save=?l lora_r=i lora_target_modules=?l
    lora_target_parameters=?l lora_task_type=s loss_add_tail=b loss_top_k=i loss_type=s loss_weights=?l
    mask_truncated_completions=b max_completion_length=?i max_inflight_tasks=i max_length=?i
    max_new_tokens=i max_prompt_length=?i max_reprompt_len=i max_staleness=i max_tool_calling_iterations=?i
    min_p=?f missing_eos_penalty=?f model_init_kwargs=?ds model_name_or_path=?s model_revision=s
    multi_objective_aggregation=s normalize_advantages=b num_completions_to_print=?i num_generations=i
    num_generations_eval=?i num_iterations=i num_loss_tokens_to_skip=i num_value_samples=i
    off_policy_mask_threshold=?f packing=b packing_strategy=s pad_to_multiple_of=?i pad_token=?s
    padding_free=b padding_value=?i precompute_ref_batch_size=?i precompute_ref_log_probs=b queue_maxsize=i
    ref_model_mixup_alpha=f ref_model_sync_steps=i remove_thinking_from_demonstration=b repetition_penalty=f
    reprompt_template=s request_timeout=i reverse_kl_top_1_mode=s reward_clip_range=?l reward_model_path=?s
    reward_weights=?l router_aux_loss_coef=?f sapo_temperature_neg=f sapo_temperature_pos=f scale_rewards=s
    seq_kd=b shuffle_dataset=b simpo_gamma=f solution_template=s steps_per_generation=?i streaming=b
    success_reward_threshold=f sync_ref_model=b teacher_model_init_kwargs=?ds teacher_model_kind=s
    teacher_model_name_or_path=?s teacher_model_revision=?s teacher_model_server_url=?s
    teacher_prompt_template=s teacher_server_urls=?ds teacher_sync_steps=i teacher_temperature=f
    teacher_tokenizer_name_or_path=?s teacher_top_k=i teacher_update_rate=f temperature=f test_split_size=?f
    token_budget=?i top_entropy_quantile=f top_k=i top_p=f tpo_alpha=f tpo_l_gamma=f
    transformers_continuous_batching_config=?ds truncation_mode=s trust_remote_code=b
    uld_crossentropy_weight=f uld_distillation_weight=f uld_hybrid_matched_weight=?f
    uld_hybrid_unmatched_weight=?f uld_skip_student_eos=b uld_skip_teacher_eos=b uld_student_temperature=f
    uld_teacher_temperature=f uld_token_merge_strategy=s uld_use_hybrid_loss=b undesirable_weight=f
    use_adaptive_entropy=b use_bias_correction_kl=b use_bnb_nested_quant=b use_dora=b use_extended_uld=b
    use_peft=b use_rslora=b use_successful_as_teacher=b use_teacher_server=b
    use_transformers_continuous_batching=b use_transformers_paged=b use_uld_loss=b use_vllm=b
    use_weighting=b vespo_k_neg=f vespo_k_pos=f vespo_lambda_neg=f vespo_lambda_pos=f
    vllm_enable_sleep_mode=b vllm_gpu_memory_utilization=f vllm_group_port=i vllm_importance_sampling_cap=?f
    vllm_importance_sampling_clip_max=?f vllm_importance_sampling_clip_min=?f
    vllm_importance_sampling_correction=b vllm_importance_sampling_mode=s vllm_max_model_length=?i
    vllm_mode=s vllm_model_impl=s vllm_server_base_url=?s vllm_server_host=s vllm_server_port=i
    vllm_server_timeout=f vllm_structured_outputs_regex=?s vllm_sync_frequency=i vllm_tensor_parallel_size=i
    wandb_log_unique_prompts=b weight_sync_steps=i weight_sync_timeout=i
"""
"""All trainers' configs, ModelConfig and ScriptArguments, without what TrainingArguments has."""

TRL_0 = """
    chars_per_token dataset_batch_size force_use_ref_model label_pad_token_id max_prompt_length
    max_seq_length max_target_length model_adapter_name num_of_sequences ref_adapter_name
    ref_model_init_kwargs reference_free rpo_alpha torch_dtype use_liger
"""
"""Arguments of TRL before 1.0 that it no longer takes (names alone)."""

LLAMAFACTORY = """
    adapter_folder=?s adapter_name_or_path=?s add_special_tokens=?s add_tokens=?s additional_target=?s
    apollo_layerwise=b apollo_proj=s apollo_proj_type=s apollo_rank=i apollo_scale=f apollo_scale_front=b
    apollo_scale_type=s apollo_target=s apollo_update_interval=i asft_alpha=f audio_sampling_rate=i
    badam_mask_mode=s badam_mode=s badam_start_block=?i badam_switch_interval=?i badam_switch_mode=?s
    badam_update_ratio=f badam_verbose=i batch_size=i block_diag_attn=b buffer_size=i cache_dir=?s
    compute_accuracy=b compute_dtype=?o create_new_adapter=b crop_to_patches=b cutoff_len=i
    data_shared_file_system=b dataset=?s dataset_dir=s default_system=?s device_map=?ds
    disable_gradient_checkpointing=b disable_shuffling=b do_sample=b double_quantization=b download_mode=o
    dpo_label_smoothing=f eaft_alpha=f early_stopping_steps=?i enable_liger_kernel=b enable_thinking=?b
    enable_torch_profiler=b eval_dataset=?s eval_num_beams=?i eval_on_each_dataset=b export_device=s
    export_dir=?s export_hub_model_id=?s export_legacy_format=b export_quantization_bit=?i
    export_quantization_dataset=?s export_quantization_maxlen=i export_quantization_nsamples=i export_size=i
    finetuning_type=s flash_attn=o fp8=b fp8_backend=s fp8_enable_fsdp_float8_all_gather=b
    freeze_extra_modules=?s freeze_language_model=b freeze_multi_modal_projector=b freeze_trainable_layers=i
    freeze_trainable_modules=s freeze_vision_tower=b galore_layerwise=b galore_proj_type=s galore_rank=i
    galore_scale=f galore_target=s galore_update_interval=i hf_hub_token=?s hyper_parallel_args=?s
    ignore_pad_token_for_loss=b image_do_pan_and_scan=b image_max_pixels=i image_min_pixels=i
    include_effective_tokens_per_second=b infer_backend=o infer_dtype=s init_special_tokens=s
    interleave_probs=?s kt_expert_checkpoint_path=?s kt_lora_expert_intermediate_size=?i
    kt_lora_expert_num=?i kt_use_lora_experts=?b kt_weight_path=?s kto_chosen_weight=f kto_rejected_weight=f
    lang=s ld_alpha=?f length_penalty=f lora_alpha=?i lora_dropout=f lora_rank=i lora_target=s
    loraplus_lr_embedding=f loraplus_lr_ratio=?f low_cpu_mem_usage=b mask_history=b master_addr=?s
    master_port=?s max_length=i max_new_tokens=i max_samples=?i media_dir=?s mix_strategy=s
    mixture_of_depths=?s model_max_length=?i model_name_or_path=?s model_revision=s module_dropout=f
    moe_aux_loss_coef=?f ms_hub_token=?s n_shot=i neat_packing=b new_special_tokens_config=?s num_beams=i
    offload_folder=s oft_block_size=i oft_rank=i oft_target=s om_hub_token=?s overwrite_cache=b
    overwrite_output_dir=b packing=?b pissa_convert=b pissa_init=b pissa_iter=i plot_loss=b
    ppo_buffer_size=i ppo_epochs=i ppo_score_norm=b ppo_target=f ppo_whiten_rewards=b pref_bco_weight=f
    pref_beta=f pref_ftx=f pref_loss=s preprocessing_batch_size=i preprocessing_num_workers=?i
    preserve_thinking=b print_param_status=b profile_modules=?s profiler_active_steps=i
    profiler_output_dir=?s profiler_profile_memory=b profiler_record_shapes=b profiler_repeat=i
    profiler_wait_steps=i profiler_warmup_steps=i profiler_with_stack=b pure_bf16=b quantization_bit=?i
    quantization_device_map=?s quantization_method=o quantization_type=s ray_init_kwargs=?ds
    ray_num_workers=i ref_model=?s ref_model_adapters=?s ref_model_quantization_bit=?i repetition_penalty=f
    resize_vocab=b reward_model=?s reward_model_adapters=?s reward_model_quantization_bit=?i
    reward_model_type=s rope_scaling=?o save_dir=?s seed=i sglang_config=?ds sglang_lora_backend=s
    sglang_maxlen=i sglang_mem_fraction=f sglang_tp_size=i shift_attn=b simpo_gamma=f skip_special_tokens=b
    split_special_tokens=b stage=s streaming=b swanlab_api_key=?s swanlab_lark_secret=?s
    swanlab_lark_webhook_url=?s swanlab_logdir=?s swanlab_mode=s swanlab_project=?s swanlab_run_name=?s
    swanlab_workspace=?s task=s task_dir=s temperature=f template=?s tokenized_path=?s tool_format=?s
    top_k=i top_p=f train_from_scratch=b train_on_prompt=b trust_remote_code=b upcast_layernorm=b
    upcast_lmhead_output=b use_adam_mini=b use_apollo=b use_asft_loss=b use_audio_in_video=b use_badam=b
    use_dft_loss=b use_dora=b use_eaft_loss=b use_fast_tokenizer=b use_galore=b use_hyper_parallel=b
    use_kt=b use_kv_cache=b use_llama_pro=b use_mca=b use_muon=b use_reentrant_gc=b use_rslora=b
    use_swanlab=b use_unsloth=b use_unsloth_gc=b use_v1_kernels=?b val_size=f video_fps=f video_max_pixels=i
    video_maxlen=i video_min_pixels=i vllm_config=?ds vllm_enforce_eager=b vllm_gpu_util=f
    vllm_max_lora_rank=i vllm_maxlen=i
"""

OPTIMIZERS = """
    adafactor adagrad adalomo adamw_8bit adamw_anyprecision adamw_apex_fused adamw_bnb_8bit adamw_hf
    adamw_torch adamw_torch_4bit adamw_torch_8bit adamw_torch_fused adamw_torch_npu_fused adamw_torch_xla
    ademamix ademamix_8bit apollo_adamw apollo_adamw_layerwise galore_adafactor galore_adafactor_layerwise
    galore_adamw galore_adamw_8bit galore_adamw_8bit_layerwise galore_adamw_layerwise grokadamw lion_32bit
    lion_8bit lomo paged_adamw_32bit paged_adamw_8bit paged_ademamix_32bit paged_ademamix_8bit
    paged_lion_32bit paged_lion_8bit rmsprop rmsprop_bnb rmsprop_bnb_32bit rmsprop_bnb_8bit
    schedule_free_adamw schedule_free_radam schedule_free_sgd sgd stable_adamw
"""

SCHEDULERS = """
    constant constant_with_warmup cosine cosine_warmup_with_min_lr cosine_with_min_lr cosine_with_restarts
    greedy inverse_sqrt linear polynomial reduce_lr_on_plateau warmup_stable_decay
"""
