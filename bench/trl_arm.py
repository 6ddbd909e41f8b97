"""One arm of `spine.py` in its own process: TRL's DPOTrainer on explicit pairs.

    python bench/trl_arm.py settings.json result.json

Settings are the keys read below. The schedule's length is `horizon`; training stops after `steps`. A step's
seconds are the wall time between its log and the one before, so that data loading and logging count
(the first starts at its `on_step_begin`). Only the rows that the steps need are handed over (plus spare ones
for pairs that TRL drops because the prompt fills `max_length`), so that the precomputed reference
is charged for the same pairs as the steps.
"""

import json
import os
import sys
import time

STARTED = time.perf_counter()
SPARE_ROWS = 8


def peak_rss_bytes():
    """This process's high-water mark of resident memory."""
    with open("/proc/self/status") as lines:
        kilobytes = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(kilobytes) * 1024


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
        rows = [json.loads(line) for line in lines]
    rows = rows[: steps * batch + SPARE_ROWS]

    class Recorder(transformers.TrainerCallback):
        def __init__(self):
            self.rows, self.mark = [], None

        def on_step_begin(self, args, state, control, **kwargs):
            if self.mark is None:
                self.mark = time.perf_counter()

        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step >= steps

        def on_log(self, args, state, control, logs=None, **kwargs):
            if "loss" not in logs:
                return
            now = time.perf_counter()
            keys = ["loss", "grad_norm", "learning_rate", "logps/chosen", "logps/rejected", "rewards/margins"]
            row = {key: logs[key] for key in keys}
            row |= {"step": state.global_step, "seconds": now - self.mark, "since_start": now - STARTED}
            row["peak_rss_bytes"] = peak_rss_bytes()
            self.rows.append(row)
            self.mark = now

    config = trl.DPOConfig(
        output_dir=settings["output_dir"],
        max_steps=settings["horizon"],
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
        precompute_ref_log_probs=settings["precompute"],
        # TRL's default is float32 too; stated so that a change of default would not pass unseen
        model_init_kwargs={"dtype": "float32"},
    )
    adapter = None
    if settings.get("lora"):
        import peft

        rank = settings["lora"]
        adapter = peft.LoraConfig(
            r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        )
    recorder = Recorder()
    before = time.perf_counter()
    trainer = trl.DPOTrainer(
        model=settings["model"], args=config, train_dataset=Dataset.from_list(rows), callbacks=[recorder],
        peft_config=adapter,
    )  # fmt: skip
    built = time.perf_counter() - before
    if len(trainer.train_dataset) < steps * batch:
        raise SystemExit(f"only {len(trainer.train_dataset)} of {len(rows)} pairs left: raise SPARE_ROWS")
    trainer.train()
    dtypes = sorted({str(p.dtype) for p in trainer.model.parameters()})
    result = {
        "steps": recorder.rows,
        "pairs_kept": len(trainer.train_dataset),
        "build_seconds": built,
        "precompute": settings["precompute"],
        "dtypes": dtypes,
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
