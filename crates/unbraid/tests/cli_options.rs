//! Command lines: spellings, values, what is refused and with which words.

use unbraid::cli::{
    CliError, Command, Device, Dtype, Geometry, MaxLength, Optim, Parsed, Resume, SftConfig, Steps,
    Strategy, TrainConfig, parse,
};
use unbraid_cuda::Precision;

const TRAIN: &[&str] = &[
    "train",
    "--model-name-or-path",
    "m",
    "--dataset-name",
    "d",
    "--output-dir",
    "o",
];

fn line(words: &[&str]) -> Result<Parsed, CliError> {
    parse(["unbraid"].iter().chain(words).map(Into::into))
}

/// [`TRAIN`] and further words, less what they give anew.
fn train_words<'w>(words: &[&'w str]) -> Vec<&'w str> {
    let option = |word: &str| word.split('=').next().unwrap_or_default().replace('_', "-");
    let given: Vec<String> = words.iter().map(|word| option(word)).collect();
    let pairs = TRAIN[1..]
        .chunks(2)
        .filter(|pair| !given.contains(&option(pair[0])));
    let mut all = vec![TRAIN[0]];
    all.extend(pairs.flatten().copied());
    all.extend(words);
    all
}

fn train_with(words: &[&str]) -> Result<TrainConfig, CliError> {
    match line(&train_words(words))?.command {
        Command::Train(config) => Ok(*config),
        other => panic!("not train: {other:?}"),
    }
}

fn train(words: &[&str]) -> TrainConfig {
    train_with(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// The message of a command line that must be refused.
fn refused(words: &[&str]) -> String {
    let error = line(words).expect_err(&format!("{words:?} was accepted"));
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

fn train_refused(words: &[&str]) -> String {
    refused(&train_words(words))
}

#[test]
fn defaults_are_those_of_the_contract() {
    let config = train(&[]);
    assert_eq!(config.model.model_name_or_path, "m");
    assert_eq!(config.model.dtype, Dtype::Auto);
    assert_eq!(config.model.device, Device::Auto);
    assert_eq!(config.model.seed, 42);
    assert_eq!(config.data.dataset_train_split, "train");
    assert_eq!(config.data.dataset_test_split, "test");
    assert_eq!(config.data.max_length, MaxLength(Some(1024)));
    assert_eq!(config.objective.loss_type, ["sigmoid"]);
    assert_eq!(config.objective.beta, None);
    let trainer = &config.trainer;
    assert_eq!(trainer.learning_rate, 1e-6);
    assert_eq!(trainer.optim, Optim::AdamwTorch);
    assert_eq!(
        (trainer.adam_beta1, trainer.adam_beta2, trainer.adam_epsilon),
        (0.9, 0.999, 1e-8)
    );
    assert_eq!(
        (
            trainer.weight_decay,
            trainer.max_grad_norm,
            trainer.momentum
        ),
        (0.0, 1.0, 0.0)
    );
    assert_eq!((trainer.num_train_epochs, trainer.max_steps), (3.0, -1));
    assert_eq!(
        (
            trainer.per_device_train_batch_size,
            trainer.gradient_accumulation_steps
        ),
        (8, 1)
    );
    assert_eq!(trainer.logging_steps, Steps(10.0));
    assert_eq!(
        (trainer.eval_strategy, trainer.save_strategy),
        (Strategy::No, Strategy::Steps)
    );
    assert_eq!(trainer.save_steps, Steps(500.0));
    assert_eq!(trainer.geometry, Geometry::EachNth(10));
    assert_eq!(trainer.resume_from_checkpoint, Resume::No);
    assert_eq!(trainer.report_to, ["none"]);
}

#[test]
fn sft_learns_faster_by_default() {
    let parsed = line(&[
        "sft",
        "--model-name-or-path",
        "m",
        "--dataset-name",
        "d",
        "--output-dir",
        "o",
    ])
    .unwrap();
    let Command::Sft(config) = parsed.command else {
        panic!("not sft")
    };
    let SftConfig {
        trainer,
        dataset_text_field,
        completion_only_loss,
        ..
    } = *config;
    assert_eq!(trainer.learning_rate, 2e-5);
    assert_eq!(dataset_text_field, "text");
    assert_eq!(completion_only_loss, None);
}

#[test]
fn snake_case_and_kebab_case_with_and_without_equals_are_one_option() {
    for words in [
        &["--learning-rate", "5.0e-6"][..],
        &["--learning_rate", "5e-6"],
        &["--learning-rate=5e-6"],
        &["--learning_rate=0.000005"],
    ] {
        assert_eq!(train(words).trainer.learning_rate, 5e-6, "{words:?}");
    }
    // Only the name is rewritten, never the value.
    assert_eq!(train(&["--run_name=a_b-c"]).trainer.name(), "a_b-c");
    assert_eq!(train(&["--run-name", "a_b-c"]).trainer.name(), "a_b-c");
}

#[test]
fn flags_take_nothing_or_a_truth_value() {
    for words in [
        &["--bf16"][..],
        &["--bf16", "True"],
        &["--bf16", "true"],
        &["--bf16=True"],
        &["--bf16=yes"],
    ] {
        assert!(train(words).trainer.bf16, "{words:?}");
    }
    for words in [&["--bf16", "False"][..], &["--bf16=false"]] {
        assert!(!train(words).trainer.bf16, "{words:?}");
    }
    assert_eq!(
        train_refused(&["--bf16=maybe"]),
        "invalid value \"maybe\" for --bf16: expected one of true, false"
    );
}

#[test]
fn tf32_speaks_of_what_bf16_leaves_in_float32() {
    let precision = |words: &[&str]| train(words).trainer.precision();
    assert_eq!(precision(&[]), Precision::Float32);
    assert_eq!(precision(&["--tf32", "True"]), Precision::Tf32);
    assert_eq!(precision(&["--tf32", "--bf16"]), Precision::Bf16);
}

#[test]
fn lists_are_given_by_spaces_commas_or_repetition() {
    for words in [
        &["--loss_type", "sigmoid", "sft"][..],
        &["--loss-type=sigmoid,sft"],
        &["--loss-type", "sigmoid", "--loss-type", "sft"],
    ] {
        assert_eq!(
            train(words).objective.loss_type,
            ["sigmoid", "sft"],
            "{words:?}"
        );
    }
    let config = train(&[
        "--loss-type",
        "sigmoid",
        "sft",
        "--loss-weights",
        "1",
        "-0.5",
    ]);
    assert_eq!(config.objective.loss_weights, [1.0, -0.5]);
}

#[test]
fn negative_numbers_are_values() {
    assert_eq!(train(&["--max_steps", "-1"]).trainer.max_steps, -1);
}

#[test]
fn special_values_are_read() {
    assert_eq!(train(&["--device", "cuda:1"]).model.device, Device::Cuda(1));
    assert_eq!(
        train(&["--geometry", "every"]).trainer.geometry,
        Geometry::EachNth(1)
    );
    assert_eq!(
        train(&["--geometry", "off"]).trainer.geometry,
        Geometry::Off
    );
    assert_eq!(
        train(&["--geometry", "25"]).trainer.geometry,
        Geometry::EachNth(25)
    );
    let (update, gram) = (Geometry::EachNth(50), Geometry::Off);
    let default = train(&[]);
    assert_eq!(
        (default.update_every, default.trainer.gram_every),
        (update, gram)
    );
    let given = train(&["--update-every", "off", "--gram_every", "5"]);
    assert_eq!(given.update_every, Geometry::Off);
    assert_eq!(given.trainer.gram_every, Geometry::EachNth(5));
    assert_eq!(train(&["--update_every", "0"]).update_every, Geometry::Off);
    assert_eq!(
        train(&["--max-length", "none"]).data.max_length,
        MaxLength(None)
    );
    assert_eq!(
        train(&["--torch_dtype", "bfloat16"]).model.dtype,
        Dtype::Bfloat16
    );
    assert_eq!(
        train(&["--optim", "adamw_torch_fused"]).trainer.optim,
        Optim::AdamwTorch
    );
}

#[test]
fn steps_may_be_a_share_of_the_run() {
    let config = train(&[
        "--warmup_ratio",
        "0.1",
        "--eval_strategy",
        "steps",
        "--eval-steps",
        "0.25",
    ]);
    assert_eq!(config.trainer.warmup(95), 10);
    assert_eq!(config.trainer.eval_interval().of(100), 25);
    assert_eq!(
        train(&["--warmup_steps", "7", "--warmup_ratio", "0.5"])
            .trainer
            .warmup(100),
        7
    );
    assert_eq!(train(&["--warmup_steps", "0.5"]).trainer.warmup(9), 5);
    // Evaluation follows logging unless told otherwise.
    assert_eq!(
        train(&["--logging-steps", "3"]).trainer.eval_interval(),
        Steps(3.0)
    );
}

#[test]
fn values_out_of_range_are_refused_with_what_was_expected() {
    let cases: &[(&[&str], &str)] = &[
        (
            &["--learning-rate", "-1e-6"],
            "invalid value \"-1e-6\" for --learning-rate: expected a number of at least 0",
        ),
        (
            &["--learning-rate", "fast"],
            "invalid value \"fast\" for --learning-rate: expected a number",
        ),
        (
            &["--learning-rate", "nan"],
            "invalid value \"nan\" for --learning-rate: expected a finite number",
        ),
        (
            &["--label-smoothing", "0.5"],
            "invalid value \"0.5\" for --label-smoothing: expected a number from 0 up to, but not including, 0.5",
        ),
        (
            &["--beta", "0"],
            "invalid value \"0\" for --beta: expected a number above 0",
        ),
        (
            &["--per_device_train_batch_size", "0"],
            "invalid value \"0\" for --per-device-train-batch-size: expected at least 1",
        ),
        (
            &["--seed", "-3"],
            "invalid value \"-3\" for --seed: expected a whole number of at least 0",
        ),
        (
            &["--max-steps", "0"],
            "invalid value \"0\" for --max-steps: expected a whole number of at least 1, or -1 for no limit",
        ),
        (
            &["--logging-steps", "0"],
            "invalid value \"0\" for --logging-steps: expected a number of steps above 0",
        ),
        (
            &["--save-steps", "2.5"],
            "invalid value \"2.5\" for --save-steps: expected a whole number of steps, or a share of the run below 1",
        ),
        (
            &["--max-length", "1"],
            "invalid value \"1\" for --max-length: a pair needs at least 2 tokens: one of prompt, one of completion",
        ),
        (
            &["--device", "tpu"],
            "invalid value \"tpu\" for --device: expected auto, cpu, cuda or cuda:N",
        ),
        (
            &["--eval-strategy", "often"],
            "invalid value \"often\" for --eval-strategy: expected one of no, steps, epoch",
        ),
        (
            &["--model-name-or-path="],
            "invalid value \"\" for --model-name-or-path: expected a name or path, found nothing",
        ),
    ];
    for (words, message) in cases {
        assert_eq!(&train_refused(words), message);
    }
}

#[test]
fn an_unknown_option_names_the_nearest() {
    assert_eq!(
        train_refused(&["--learning_rat", "1e-6"]),
        "unknown option --learning_rat of unbraid train\nhint: did you mean --learning-rate?"
    );
    assert_eq!(
        train_refused(&["--zzz"]),
        "unknown option --zzz of unbraid train\nhint: unbraid train --help lists the options"
    );
    // Options of transformers are known to train and sft alone.
    assert_eq!(
        refused(&["score", "--dataset_num_proc", "4"]),
        "unknown option --dataset_num_proc of unbraid score\nhint: did you mean --dataset-name?"
    );
    assert_eq!(
        refused(&["trian"]),
        "unknown command trian\nhint: did you mean train?"
    );
    assert_eq!(
        refused(&["--json", "score"]),
        "unexpected argument --json\nhint: the command comes first: unbraid COMMAND --option value"
    );
    assert_eq!(
        refused(&[]),
        "no command given\nhint: unbraid --help lists the commands"
    );
}

#[test]
fn nested_commands_are_known_and_others_are_not() {
    assert!(line(&["theory"]).is_ok());
    assert!(line(&["reproduce", "objectives", "--quick"]).is_ok());
    assert!(line(&["reproduce", "sentiment", "--max_steps", "3"]).is_ok());
    assert_eq!(
        refused(&["reproduce", "sentimnt"]),
        "unknown command sentimnt\nhint: did you mean sentiment?"
    );
    for name in ["data", "reproduce"] {
        assert!(matches!(line(&[name]), Err(CliError::NoCommand)), "{name}");
    }
    assert!(matches!(
        line(&["chat"]),
        Err(CliError::UnknownCommand { .. })
    ));
}

#[test]
fn missing_options_are_all_named() {
    assert_eq!(
        refused(&["train", "--dataset-name", "d"]),
        "missing --model-name-or-path, --output-dir\nhint: give each as an option, or as a key of the recipe"
    );
    assert!(refused(&["report"]).starts_with("missing <RUN>...\nhint: usage: unbraid report"));
    assert_eq!(
        train_refused(&["--run-name", "--bf16"]),
        "missing value of --run-name\nhint: --run-name VALUE; a value that starts with -- is given as --run-name=VALUE"
    );
}

#[test]
fn options_of_transformers_without_effect_are_noted_once() {
    let words = &[
        "--dataset_num_proc",
        "4",
        "--ddp_find_unused_parameters",
        "True",
        "--remove_unused_columns",
        "--bf16",
    ];
    let parsed = line(&[TRAIN, words].concat()).unwrap();
    assert_eq!(
        parsed.notes,
        ["accepted without effect here: dataset_num_proc, ddp_find_unused_parameters"]
    );
    let Command::Train(config) = parsed.command else {
        panic!("not train")
    };
    assert!(config.trainer.bf16);
}

#[test]
fn what_is_not_built_is_refused_unless_it_changes_nothing() {
    assert_eq!(
        train_refused(&["--fsdp_config", "x", "--neftune_noise_alpha", "5"]),
        "--neftune-noise-alpha = 5 is not supported yet\nhint: what works: 0"
    );
    train(&["--neftune_noise_alpha", "0.0"]);
    assert!(
        train_refused(&["--max_prompt_length", "128"])
            .ends_with("hint: leave --max-prompt-length out")
    );
}

#[test]
fn options_that_must_agree_are_checked() {
    assert_eq!(
        train_refused(&["--loss-type", "sigmoid", "sft", "--loss-weights", "1"]),
        "loss_weights has 1 entries, loss_type has 2\nhint: give one weight for each loss type, or no weights"
    );
    assert_eq!(
        train_refused(&[
            "--dataset-name",
            "pairs.jsonl.gz",
            "--eval-strategy",
            "steps"
        ]),
        "evaluation is on (eval_strategy), but pairs.jsonl.gz is one file without a split to evaluate on\n\
         hint: give held-out examples with --eval-dataset FILE, or --eval-strategy no"
    );
    train(&[
        "--dataset-name",
        "pairs.jsonl",
        "--eval-strategy",
        "steps",
        "--eval-dataset",
        "held.jsonl",
    ]);
    let parsed = line(
        &[
            TRAIN,
            &["--eval-dataset", "held.jsonl", "--report_to", "wandb"],
        ]
        .concat(),
    )
    .unwrap();
    assert_eq!(
        parsed.notes,
        [
            "eval_dataset held.jsonl is not read: eval_strategy is no",
            "no tracking to wandb: metrics are in metrics.jsonl of the output directory",
        ]
    );
}

#[test]
fn generate_takes_prompts_or_a_data_set() {
    let generate = ["generate", "--model-name-or-path", "m"];
    assert!(
        refused(&generate)
            .starts_with("missing --prompt or --dataset-name\nhint: unbraid generate")
    );
    assert!(
        refused(&[&generate[..], &["--prompt", "a", "--dataset-name", "d"]].concat())
            .contains("not from both")
    );
    let parsed = line(
        &[
            &generate[..],
            &[
                "--prompt",
                "- one, two",
                "--prompt",
                "\n\nHuman: hi",
                "--do-sample",
                "--top_p",
                "0.9",
            ],
        ]
        .concat(),
    );
    let Parsed {
        command: Command::Generate(config),
        notes,
    } = parsed.unwrap()
    else {
        panic!("not generate")
    };
    assert_eq!(config.prompt, ["- one, two", "\n\nHuman: hi"]);
    let sampling = &config.sampling;
    assert_eq!(
        (sampling.do_sample, sampling.top_p, sampling.max_new_tokens),
        (Some(true), Some(0.9), None)
    );
    assert!(notes.is_empty());
}

#[test]
fn arguments_that_are_no_options_go_to_those_who_take_them() {
    let Command::Report(report) = line(&["report", "runs/a", "runs/b", "--json"])
        .unwrap()
        .command
    else {
        panic!("not report")
    };
    assert_eq!(
        report.runs,
        [
            std::path::Path::new("runs/a"),
            std::path::Path::new("runs/b")
        ]
    );
    assert!(report.json);
    let Command::Objectives(objectives) = line(&["objectives", "sigmoid"]).unwrap().command else {
        panic!("not objectives")
    };
    assert_eq!(objectives.name.as_deref(), Some("sigmoid"));
    assert!(refused(&["demo", "now"]).starts_with("unexpected argument now\nhint:"));
    assert!(
        refused(&["train", "a.yaml", "b.yaml"]).starts_with("unexpected argument b.yaml\nhint:")
    );
    assert!(refused(&["demo", "-x"]).starts_with("unknown option -x of unbraid demo"));
}

/// The options that the interface contract names, for the commands that are built.
#[test]
fn every_option_of_the_contract_exists_in_both_spellings() {
    let model = "model-name-or-path base-model dtype device threads seed";
    let data = "dataset-name dataset-train-split dataset-test-split max-samples max-length";
    let trainer = "output-dir overwrite-output-dir learning-rate optim weight-decay adam-beta1 adam-beta2 adam-epsilon \
        max-grad-norm lr-scheduler-type warmup-ratio warmup-steps num-train-epochs max-steps \
        per-device-train-batch-size gradient-accumulation-steps gradient-checkpointing train-sampling-strategy \
        logging-steps eval-strategy eval-steps save-strategy save-steps save-total-limit resume-from-checkpoint bf16 \
        use-peft lora-r lora-alpha lora-dropout lora-target-modules report-to run-name geometry gram-every";
    let objective = "ref-model loss-type loss-weights beta label-smoothing simpo-gamma cpo-alpha reference-free \
        precompute-ref-log-probs sync-ref-model ref-model-mixup-alpha ref-model-sync-steps ld-alpha f-divergence-type \
        use-weighting update-every rpo-alpha remedy npo-scale token-mask mask-epsilon mask-sharpness mask-l1 semantics";
    let contract = [
        ("train", vec![model, data, trainer, objective]),
        ("sft", vec![model, data, trainer, "packing"]),
        (
            "score",
            vec![model, data, "ref-model token-logps json output-dir"],
        ),
        (
            "generate",
            vec![
                model,
                "prompt dataset-name max-new-tokens temperature top-p do-sample json repetition-penalty \
                 no-repeat-ngram-size top-k min-p min-new-tokens suppress-tokens begin-suppress-tokens bad-words-ids \
                 eos-token-id forced-eos-token-id typical-p generation-config num-beams",
            ],
        ),
        ("inspect", vec![model, data, "json"]),
        ("objectives", vec!["json"]),
        ("report", vec!["json"]),
    ];
    for (command, groups) in contract {
        for option in groups.iter().flat_map(|group| group.split_whitespace()) {
            for name in [
                format!("--{option}=x"),
                format!("--{}=x", option.replace('-', "_")),
            ] {
                let result = line(&[command, &name]);
                assert!(
                    !matches!(result, Err(CliError::UnknownOption { .. })),
                    "{command} {name}"
                );
            }
        }
    }
}

/// Every option of every command, at numbers that no one means: it is taken, or refused by its name.
#[test]
fn no_number_is_taken_that_its_option_cannot_mean() {
    let needed: &[(&str, &[&str])] = &[
        (
            "train",
            &[
                "--model-name-or-path=m",
                "--dataset-name=d",
                "--output-dir=o",
            ],
        ),
        (
            "sft",
            &[
                "--model-name-or-path=m",
                "--dataset-name=d",
                "--output-dir=o",
            ],
        ),
        (
            "diagnose",
            &[
                "--model-name-or-path=m",
                "--dataset-name=d",
                "--output-dir=o",
            ],
        ),
        (
            "score",
            &[
                "--model-name-or-path=m",
                "--dataset-name=d",
                "--output-dir=o",
            ],
        ),
        ("plan", &["--model-name-or-path=m", "--pairs=3"]),
        ("generate", &["--model-name-or-path=m", "--prompt=p"]),
        ("inspect", &["--model-name-or-path=m", "--dataset-name=d"]),
        ("theory", &[]),
        ("demo", &[]),
    ];
    let numbers = [
        "nan",
        "inf",
        "-inf",
        "1e300",
        "-1e300",
        "1e-300",
        "-1",
        "0",
        "18446744073709551616",
        "18446744073709551615",
    ];
    let whole: &[(&str, &[&str])] = &[
        (
            "threads",
            &[
                "train", "sft", "diagnose", "score", "plan", "generate", "inspect", "theory",
                "demo",
            ],
        ),
        (
            "max-samples",
            &["train", "sft", "diagnose", "score", "generate", "inspect"],
        ),
        (
            "max-length",
            &["train", "sft", "diagnose", "score", "generate", "inspect"],
        ),
        ("lora-r", &["train", "sft", "plan"]),
        ("max-steps", &["train", "sft", "plan"]),
        ("logging-steps", &["train", "sft"]),
        ("eval-steps", &["train", "sft"]),
        ("save-steps", &["train", "sft"]),
        ("save-total-limit", &["train", "sft"]),
        ("warmup-steps", &["train", "sft"]),
        ("geometry", &["train"]),
        ("gram-every", &["train"]),
        ("update-every", &["train"]),
        ("eval-geometry", &["train"]),
        ("ref-model-sync-steps", &["train"]),
        ("pairs", &["plan"]),
        ("prompt-tokens", &["plan"]),
        ("completion-tokens", &["plan"]),
        ("instances", &["theory"]),
        ("heatmap", &["diagnose"]),
        ("heatmap-tokens", &["diagnose"]),
        ("gram-pairs", &["diagnose"]),
        ("step-pairs", &["diagnose"]),
        ("batch-tokens", &["diagnose"]),
        ("index", &["inspect"]),
        ("max-new-tokens", &["generate"]),
        ("min-new-tokens", &["generate"]),
        ("top-k", &["generate"]),
        ("no-repeat-ngram-size", &["generate"]),
    ];
    let parts: &[(&str, &[&str])] = &[
        ("learning-rate", &["train", "sft", "diagnose"]),
        ("num-train-epochs", &["train", "sft", "plan"]),
        ("weight-decay", &["train"]),
        ("adam-beta1", &["train"]),
        ("adam-epsilon", &["train"]),
        ("max-grad-norm", &["train"]),
        ("warmup-ratio", &["train"]),
        ("beta", &["train", "score", "diagnose"]),
        ("label-smoothing", &["train"]),
        ("lora-dropout", &["train"]),
        ("lora-alpha", &["train"]),
        ("ld-alpha", &["train"]),
        ("gflops", &["plan"]),
        ("utilization", &["plan"]),
        ("temperature", &["generate"]),
        ("top-p", &["generate"]),
        ("min-p", &["generate"]),
        ("repetition-penalty", &["generate"]),
    ];
    for (option, commands) in whole.iter().chain(parts) {
        let part = parts.iter().any(|(known, _)| known == option);
        for command in *commands {
            let given = needed.iter().find(|(known, _)| known == command).unwrap().1;
            let given: Vec<&str> = given
                .iter()
                .filter(|word| !word.starts_with(&format!("--{option}=")))
                .copied()
                .collect();
            for number in numbers {
                let value = format!("--{option}={number}");
                let words = [&[*command][..], &given, &[&value]].concat();
                match line(&words) {
                    Ok(_) => {
                        let fine = number == "0"
                            || (part && number.starts_with("18446744073709551"))
                            || (number == "-1" && ["max-steps", "lora-alpha"].contains(option))
                            || (number == "1e-300" && (part || option.ends_with("-steps")));
                        assert!(fine, "{command} {value} is taken");
                    }
                    Err(error) => {
                        let message = error.to_string();
                        assert_eq!(error.exit_code(), 2);
                        let named = message
                            .contains(&format!("invalid value \"{number}\" for --{option}: "));
                        let says = message.contains("at least") || message.contains("expected");
                        assert!(named && says, "{command} {value}: {message}");
                    }
                }
            }
        }
    }
}

#[test]
fn an_option_of_one_value_is_given_once() {
    for (words, name) in [
        (
            &["--beta", "0.1", "--beta", "0.2"][..],
            "--beta is given twice: 0.1, then 0.2",
        ),
        (
            &["--learning_rate", "1e-6", "--learning-rate=2e-6"],
            "--learning-rate is given twice: 1e-6, then 2e-6",
        ),
        (
            &["--max-seq-length", "5", "--max-length", "6"],
            "--max-length is given twice: 5, then 6",
        ),
        (
            &["--bf16", "--bf16", "false"],
            "--bf16 is given twice: true, then false",
        ),
        (
            &["--dataset-num-proc", "1", "--dataset_num_proc", "2"],
            "--dataset-num-proc is given twice: 1, then 2",
        ),
        (
            &["--hub-token", "hf_a", "--hub_token=hf_b"],
            "--hub-token is given twice: ***, then ***",
        ),
    ] {
        let given = [
            &[
                "train",
                "--model-name-or-path=m",
                "--dataset-name=d",
                "--output-dir=o",
            ][..],
            words,
        ]
        .concat();
        let message = line(&given).unwrap_err().to_string();
        assert_eq!(message, format!("{name}\nhint: give it once"));
    }
    // Lists grow.
    let lists = [
        "train",
        "--model-name-or-path=m",
        "--dataset-name=d",
        "--output-dir=o",
        "--loss-type",
        "ipo",
        "--loss-type",
        "sft",
    ];
    let Command::Train(config) = line(&lists).unwrap().command else {
        panic!("not train")
    };
    assert_eq!(config.objective.loss_type, ["ipo", "sft"]);
}

#[test]
fn a_word_behind_a_switch_is_its_value_unless_it_is_a_recipe() {
    let given = [
        "train",
        "--model-name-or-path=m",
        "--dataset-name=d",
        "--output-dir=o",
    ];
    let message = refused(&[&given[..], &["--bf16", "maybe"]].concat());
    assert_eq!(
        message,
        "invalid value \"maybe\" for --bf16: expected one of true, false"
    );
    for (word, on) in [("yes", true), ("off", false), ("1", true), ("False", false)] {
        let Command::Train(config) = line(&[&given[..], &["--bf16", word]].concat())
            .unwrap()
            .command
        else {
            panic!("not train")
        };
        assert_eq!(config.trainer.bf16, on, "{word}");
    }
    let Command::Report(config) = line(&["report", "--json", "run"]).unwrap().command else {
        panic!("not report")
    };
    assert_eq!(config.runs, [std::path::PathBuf::from("run")]);
}
