"""A training arm of `bench/run` in its own process: TRL's DPOTrainer on explicit pairs.

    python bench/trl_arm.py settings.json result.json

Settings are the keys read below; `extra` goes to DPOConfig as it stands. Training takes `steps` steps, which is the schedule's length
too. A step's seconds are the wall time between its log and the one before, so that data loading and logging count (the
first starts at its `on_step_begin`). `at` is the clock that all processes share (CLOCK_MONOTONIC), so that the program that
started this one can count from the process's start.
"""

import json
import os
import sys
import time


def adapter_of(trainer, folder):
    """Puts the stored start of the adapter into the trainer's model: every arm starts from the same numbers."""
    import peft
    from safetensors.torch import load_file

    loaded = peft.set_peft_model_state_dict(trainer.model, load_file(f"{folder}/adapter_model.safetensors"))
    if loaded.unexpected_keys:
        raise SystemExit(f"the stored adapter has keys that TRL's model lacks: {loaded.unexpected_keys[:3]}")


def main(settings_path, result_path):
    with open(settings_path) as file:
        settings = json.load(file)
    import torch

    torch.set_num_threads(settings["threads"])
    import transformers
    import trl
    from datasets import Dataset

    steps, batch = settings["steps"], settings["batch"]
    with open(settings["pairs"], encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][: steps * batch]

    class Recorder(transformers.TrainerCallback):
        def __init__(self):
            self.rows, self.mark = [], None

        def on_step_begin(self, args, state, control, **kwargs):
            if self.mark is None:
                self.mark = time.perf_counter()

        def on_log(self, args, state, control, logs=None, **kwargs):
            if "loss" not in logs:
                return
            now = time.perf_counter()
            keys = ["loss", "grad_norm", "learning_rate", "logps/chosen", "logps/rejected", "rewards/margins"]
            self.rows.append({key: logs.get(key) for key in keys} | {"step": state.global_step, "seconds": now - self.mark, "at": now})
            self.mark = now
            # in case a later step fails or the arm is stopped
            with open(result_path + ".partial", "w") as file:
                json.dump(self.rows, file)

    config = trl.DPOConfig(
        output_dir=settings["output_dir"],
        max_steps=steps,
        per_device_train_batch_size=batch,
        train_sampling_strategy="sequential",
        max_length=settings["max_length"],
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="linear",
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        beta=settings["beta"],
        loss_type="sigmoid",
        seed=settings["seed"],
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        # TRL's default is float32 too; stated so that a change of default would not pass unseen
        model_init_kwargs={"dtype": "float32"},
        **settings["extra"],
    )
    adapter = None
    if settings.get("lora"):
        import peft

        adapter = peft.LoraConfig.from_pretrained(settings["adapter"])
        adapter.inference_mode = False  # as stored it would be frozen
    recorder = Recorder()
    before = time.perf_counter()
    trainer = trl.DPOTrainer(
        model=settings["model"], args=config, train_dataset=Dataset.from_list(rows), callbacks=[recorder],
        peft_config=adapter,
    )  # fmt: skip
    if adapter is not None:
        adapter_of(trainer, settings["adapter"])
    built = time.perf_counter() - before
    if len(trainer.train_dataset) < steps * batch:
        raise SystemExit(f"TRL kept {len(trainer.train_dataset)} of {len(rows)} pairs")
    trainer.train()
    result = {
        "steps": recorder.rows,
        "build_seconds": built,
        "dtypes": sorted({str(p.dtype) for p in trainer.model.parameters()}),
        "optimizer": config.optim if isinstance(config.optim, str) else config.optim.value,
        "attention": trainer.model.config._attn_implementation,
        "threads": torch.get_num_threads(),
        "fast_mkl": "libfastmkl" in os.environ.get("LD_PRELOAD", ""),
        "versions": {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__},
    }
    with open(result_path, "w") as file:
        json.dump(result, file, indent=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
