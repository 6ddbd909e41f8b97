//! Names, options, descriptions and errors: what a user of `loss_type` meets.

use unbraid_objective::losses::{Cpo, Dpo, Ipo};
use unbraid_objective::{
    Nll, NllAverage, Objective, ObjectiveError, ObjectiveOptions, PairLogps, Semantics, describe,
};

fn paper() -> ObjectiveOptions {
    ObjectiveOptions {
        semantics: Semantics::Paper,
        ..Default::default()
    }
}

fn pair() -> PairLogps {
    PairLogps {
        chosen: -12.0,
        rejected: -9.0,
        ref_chosen: -11.0,
        ref_rejected: -10.0,
        chosen_len: 6,
        rejected_len: 3,
    }
}

#[test]
fn names_and_aliases_of_the_contract() {
    for (name, aliases) in [
        ("sigmoid", vec!["dpo", "DPO"]),
        ("rdpo", vec!["r-dpo", "r_dpo"]),
        ("simpo", vec![]),
        ("ipo", vec![]),
        ("rrhf", vec![]),
        ("slic", vec!["slic_hf", "slic-hf"]),
        ("cpo", vec![]),
        ("dpop", vec!["pdpo"]),
        ("kto", vec!["kto_pair"]),
        ("sppo", vec!["sppo_hard"]),
        ("aot", vec!["aot_pair"]),
    ] {
        let options = ObjectiveOptions::default();
        let objective = Objective::from_name(name, &options).unwrap();
        assert_eq!(objective.name(), name);
        for alias in aliases {
            assert_eq!(
                Objective::from_name(alias, &options).unwrap(),
                objective,
                "{alias}"
            );
        }
    }
    // Table 2 of the paper comes first.
    let table_2 = [
        "sigmoid", "rdpo", "simpo", "ipo", "rrhf", "slic", "cpo", "dpop", "kto", "sppo",
    ];
    assert_eq!(Objective::all_names()[..10], table_2);
}

#[test]
fn every_name_is_unique_described_and_builds() {
    let mut taken = std::collections::HashSet::new();
    for name in Objective::all_names() {
        let description = describe(name).unwrap();
        assert!(taken.insert(name), "{name} twice");
        for alias in description.aliases {
            assert!(taken.insert(alias), "{alias} twice");
            assert_eq!(describe(alias), Some(description));
        }
        let texts = [
            description.title,
            description.formula,
            description.loss,
            description.d_w,
            description.d_l,
        ];
        assert!(texts.iter().all(|text| !text.is_empty()), "{name}");
        assert!(
            description.source.contains("arXiv") || name == "cdpo",
            "{name}: {}",
            description.source
        );
        for options in [ObjectiveOptions::default(), paper()] {
            let objective = Objective::from_name(name, &options).unwrap();
            assert_eq!(objective.name(), name);
            assert_eq!(objective.needs_reference(), description.needs_reference);
            assert_eq!(objective.is_pairwise(), name != "sft");
            assert_eq!(objective.mixes_pairs(), name.starts_with("aot"));
        }
    }
    assert_eq!(describe("no such"), None);
}

/// `options` with `key` set to the text that a description shows.
fn set(options: &mut ObjectiveOptions, key: &str, value: &str) {
    let field = match key {
        "f_divergence_type" => return options.f_divergence_type = Some(value.to_owned()),
        "length_average" => return options.length_average = Some(value == "true"),
        "nll_average" => return options.nll_average = Some(value == "true"),
        "beta" => &mut options.beta,
        "label_smoothing" => &mut options.label_smoothing,
        "simpo_gamma" => &mut options.simpo_gamma,
        "cpo_alpha" => &mut options.cpo_alpha,
        "rpo_alpha" => &mut options.rpo_alpha,
        "discopop_tau" => &mut options.discopop_tau,
        "desirable_weight" => &mut options.desirable_weight,
        "undesirable_weight" => &mut options.undesirable_weight,
        "slic_delta" => &mut options.slic_delta,
        "slic_lambda" => &mut options.slic_lambda,
        "rrhf_lambda" => &mut options.rrhf_lambda,
        "dpop_lambda" => &mut options.dpop_lambda,
        "rdpo_alpha" => &mut options.rdpo_alpha,
        "alphapo_alpha" => &mut options.alpha,
        "bco_delta" => &mut options.bco_delta,
        other => panic!("a description names an option that does not exist: {other}"),
    };
    *field = Some(value.parse().expect("a number"));
}

#[test]
fn described_defaults_are_those_in_force() {
    let pairs = [
        pair(),
        PairLogps {
            chosen: -40.0,
            chosen_len: 2,
            ..pair()
        },
    ];
    for name in Objective::all_names() {
        let mut said = ObjectiveOptions::default();
        for (key, value, meaning) in describe(name).unwrap().defaults {
            assert!(!meaning.is_empty());
            set(&mut said, key, value);
        }
        let unsaid = Objective::from_name(name, &ObjectiveOptions::default()).unwrap();
        let said = Objective::from_name(name, &said).unwrap();
        assert_eq!(unsaid.evaluate(&pairs), said.evaluate(&pairs), "{name}");
    }
}

#[test]
fn defaults_of_the_specification() {
    let from = |name| Objective::from_name(name, &ObjectiveOptions::default()).unwrap();
    let (dpo, ipo) = (Dpo::default(), Ipo::default());
    assert_eq!((dpo.beta, dpo.label_smoothing), (0.1, 0.0));
    assert_eq!((ipo.beta, ipo.length_average), (0.1, true));
    let Objective::RDpo(rdpo) = from("rdpo") else {
        panic!()
    };
    assert_eq!((rdpo.beta, rdpo.alpha), (0.1, 0.2));
    let Objective::SimPo(simpo) = from("simpo") else {
        panic!()
    };
    assert_eq!((simpo.beta, simpo.gamma, simpo.nll), (2.0, 0.5, Nll::OFF));
    let Objective::Slic(slic) = from("slic") else {
        panic!()
    };
    assert_eq!((slic.delta, slic.nll.weight), (1.0, 0.1));
    let Objective::Rrhf(rrhf) = from("rrhf") else {
        panic!()
    };
    assert_eq!(
        rrhf.nll,
        Nll {
            weight: 1.0,
            average: NllAverage::Sum
        }
    );
    let Objective::Dpop(dpop) = from("dpop") else {
        panic!()
    };
    assert_eq!((dpop.beta, dpop.lambda), (0.1, 50.0));
    let Objective::Sppo(sppo) = from("sppo") else {
        panic!()
    };
    assert_eq!(sppo.beta, 0.001);
    assert_eq!((Cpo::default().beta, Cpo::default().nll.weight), (0.1, 1.0));
}

#[test]
fn sides_of_the_paper_and_of_trl() {
    let one = |name, options: &ObjectiveOptions| {
        Objective::from_name(name, options)
            .unwrap()
            .evaluate(&[pair()])
            .unwrap()[0]
    };
    let smooth = ObjectiveOptions {
        label_smoothing: Some(0.2),
        ..Default::default()
    };
    assert_eq!(
        one("sigmoid", &smooth),
        one("sigmoid", &ObjectiveOptions::default())
    );
    let smooth_paper = ObjectiveOptions {
        semantics: Semantics::Paper,
        ..smooth.clone()
    };
    assert_eq!(one("sigmoid", &smooth_paper), one("cdpo", &smooth));
    // ipo: averaged, d_w/d_l = L_l/L_w = ½; summed, 1.
    let (trl, summed) = (
        one("ipo", &ObjectiveOptions::default()),
        one("ipo", &paper()),
    );
    assert_eq!((trl.d_w / trl.d_l, summed.d_w / summed.d_l), (0.5, 1.0));
    // cpo: λ a_w against its mean over the 6 tokens: d_w − d_l is λ, or λ/6.
    let (trl, summed) = (
        one("cpo", &ObjectiveOptions::default()),
        one("cpo", &paper()),
    );
    assert!(
        (trl.d_w - trl.d_l - 1.0 / 6.0).abs() < 1e-15
            && (summed.d_w - summed.d_l - 1.0).abs() < 1e-15
    );
    // simpo with cpo_alpha: CPO-SimPO under TRL, plain SimPO otherwise.
    let alpha = ObjectiveOptions {
        cpo_alpha: Some(1.0),
        ..Default::default()
    };
    let plain = one("simpo", &ObjectiveOptions::default());
    assert!((one("simpo", &alpha).d_w - plain.d_w - 1.0 / 6.0).abs() < 1e-15);
    assert_eq!(
        one(
            "simpo",
            &ObjectiveOptions {
                semantics: Semantics::Paper,
                ..alpha
            }
        ),
        plain
    );
}

#[test]
fn unknown_names_get_the_nearest_and_all() {
    let error = Objective::from_name("sigmoit", &ObjectiveOptions::default()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("unknown objective `sigmoit`\nhint: did you mean `sigmoid`?"),
        "{text}"
    );
    for name in Objective::all_names() {
        assert!(text.contains(name), "{name} is not listed");
    }
    let ObjectiveError::UnknownObjective { nearest, .. } =
        Objective::from_name("kto-pear", &ObjectiveOptions::default()).unwrap_err()
    else {
        panic!("another error")
    };
    assert_eq!(nearest, "kto_pair");
}

#[test]
fn sums_of_objectives() {
    let options = ObjectiveOptions::default();
    let sum = Objective::from_names(&["dpo", "sft"], &[1.0, 0.5], &options).unwrap();
    assert_eq!(sum.name(), "1*sigmoid+0.5*sft");
    assert!(sum.needs_reference() && sum.is_pairwise() && !sum.mixes_pairs());
    // rpo is that sum under TRL's semantics.
    let rpo = ObjectiveOptions {
        rpo_alpha: Some(0.5),
        ..Default::default()
    };
    let batch = [
        pair(),
        PairLogps {
            chosen_len: 9,
            ..pair()
        },
    ];
    let close = |a: &Objective, b: &Objective| {
        let (a, b) = (a.evaluate(&batch).unwrap(), b.evaluate(&batch).unwrap());
        a.iter().zip(b).all(|(a, b)| {
            (a.loss - b.loss).abs() + (a.d_w - b.d_w).abs() + (a.d_l - b.d_l).abs() < 1e-14
        })
    };
    assert!(close(&sum, &Objective::from_name("rpo", &rpo).unwrap()));
    // `rpo_alpha` with another objective adds the same term; `rpo` does not get it twice.
    assert!(close(&sum, &Objective::from_name("sigmoid", &rpo).unwrap()));
    // No weights: 1 each; one name of weight 1: itself.
    let both = Objective::from_names(&["dpo", "sft"], &[], &options).unwrap();
    assert_eq!(both.name(), "1*sigmoid+1*sft");
    assert_eq!(
        Objective::from_names(&["dpo"], &[1.0], &options)
            .unwrap()
            .name(),
        "sigmoid"
    );
    let count = |names: &[&str], weights: &[f64]| {
        Objective::from_names(names, weights, &options).unwrap_err()
    };
    assert_eq!(
        count(&["dpo"], &[1.0, 2.0]),
        ObjectiveError::WeightCount {
            names: 1,
            weights: 2
        }
    );
    assert_eq!(
        count(&[], &[]),
        ObjectiveError::WeightCount {
            names: 0,
            weights: 0
        }
    );
    assert!(matches!(
        count(&["dpo", "sft"], &[1.0, f64::NAN]),
        ObjectiveError::OutOfRange { .. }
    ));
    assert!(Objective::Weighted(vec![]).validate().is_err());
    assert!(Objective::Weighted(vec![]).evaluate(&[]).is_err());
}

#[test]
fn options_that_change_nothing_are_named() {
    let options = ObjectiveOptions {
        beta: Some(0.2),
        label_smoothing: Some(0.1),
        cpo_alpha: Some(0.5),
        ..Default::default()
    };
    assert_eq!(
        Objective::unread_options(&["dpo"], &options),
        ["label_smoothing", "cpo_alpha"]
    );
    assert_eq!(
        Objective::unread_options(&["dpo", "robust", "cpo"], &options),
        [""; 0]
    );
    assert_eq!(Objective::unread_options(&["simpo"], &options), [""; 0]);
    assert_eq!(
        Objective::unread_options(&["rrhf"], &options),
        ["beta", "label_smoothing", "cpo_alpha"]
    );
    let paper = ObjectiveOptions {
        semantics: Semantics::Paper,
        ..options
    };
    assert_eq!(Objective::unread_options(&["dpo"], &paper), ["cpo_alpha"]);
    // What is called unread indeed changes nothing, and what is called read does.
    let pairs = [
        pair(),
        PairLogps {
            chosen: -40.0,
            chosen_len: 2,
            ..pair()
        },
    ];
    for name in Objective::all_names() {
        for (key, value) in [
            ("beta", "0.37"),
            ("label_smoothing", "0.13"),
            ("simpo_gamma", "0.9"),
            ("cpo_alpha", "0.21"),
            ("length_average", "false"),
            ("nll_average", "false"),
            ("discopop_tau", "0.4"),
            ("desirable_weight", "1.3"),
            ("undesirable_weight", "0.6"),
            ("slic_delta", "30"),
            ("slic_lambda", "0.77"),
            ("rrhf_lambda", "0.4"),
            ("dpop_lambda", "3"),
            ("rdpo_alpha", "0.9"),
            ("alphapo_alpha", "0.6"),
            ("bco_delta", "0.31"),
        ] {
            let mut one = ObjectiveOptions::default();
            set(&mut one, key, value);
            // Likelihood terms of rrhf and slic are sums unless told otherwise.
            if key == "nll_average" && ["rrhf", "slic"].contains(&name) {
                set(&mut one, key, "true");
            }
            let with = |options: &ObjectiveOptions| {
                Objective::from_name(name, options)
                    .unwrap()
                    .evaluate(&pairs)
                    .unwrap()
            };
            let unread = Objective::unread_options(&[name], &one) == [key];
            // simpo averages a likelihood term only where it has one.
            let same = with(&one) == with(&ObjectiveOptions::default());
            assert_eq!(unread, same, "{name}, {key}");
        }
    }
}

#[test]
fn reference_free_reads_no_reference() {
    let free = ObjectiveOptions {
        reference_free: Some(true),
        ..Default::default()
    };
    let objective = Objective::from_name("sigmoid", &free).unwrap();
    assert!(!objective.needs_reference());
    assert_eq!(objective.name(), "sigmoid");
    let blind = PairLogps {
        ref_chosen: f64::NAN,
        ref_rejected: f64::NAN,
        ..pair()
    };
    // −log σ(β(a_w − a_l)) is CPO without its likelihood term.
    let cpo = ObjectiveOptions {
        cpo_alpha: Some(0.0),
        ..Default::default()
    };
    let cpo = Objective::from_name("cpo", &cpo).unwrap();
    assert_eq!(objective.evaluate(&[blind]), cpo.evaluate(&[blind]));
}

#[test]
fn hyper_parameters_out_of_range_are_refused() {
    let with = |change: fn(&mut ObjectiveOptions), name: &str| {
        let mut options = ObjectiveOptions::default();
        change(&mut options);
        Objective::from_name(name, &options).unwrap_err()
    };
    let out_of_range = |error: ObjectiveError, wanted: &str| match error {
        ObjectiveError::OutOfRange { option, .. } => assert_eq!(option, wanted),
        other => panic!("{other}"),
    };
    for name in Objective::all_names() {
        if !["rrhf", "slic", "sft"].contains(&name) {
            out_of_range(with(|o| o.beta = Some(0.0), name), "beta");
            out_of_range(with(|o| o.beta = Some(f64::NAN), name), "beta");
        }
    }
    out_of_range(
        with(|o| o.label_smoothing = Some(0.5), "robust"),
        "label_smoothing",
    );
    out_of_range(
        with(|o| o.label_smoothing = Some(0.0), "exo_pair"),
        "label_smoothing",
    );
    out_of_range(
        with(|o| o.discopop_tau = Some(0.0), "discopop"),
        "discopop_tau",
    );
    out_of_range(with(|o| o.cpo_alpha = Some(-1.0), "cpo"), "cpo_alpha");
    out_of_range(with(|o| o.ld_alpha = Some(1.5), "sigmoid"), "ld_alpha");
    out_of_range(with(|o| o.rpo_alpha = Some(-0.1), "ipo"), "rpo_alpha");
    out_of_range(with(|o| o.kto_kl = Some(f64::INFINITY), "kto"), "kto_kl");
    let text = with(|o| o.beta = Some(-1.0), "dpo").to_string();
    assert_eq!(text, "`beta` is -1, expected a finite number above 0");

    let error = with(|o| o.f_divergence_type = Some("kl".into()), "dpo");
    assert!(matches!(
        error,
        ObjectiveError::UnknownChoice {
            option: "f_divergence_type",
            ..
        }
    ));
    let error = with(|o| o.f_divergence_type = Some("forward_kl".into()), "sppo");
    assert!(matches!(
        error,
        ObjectiveError::UnsupportedDivergence {
            objective: "sppo",
            ..
        }
    ));
}

#[test]
fn unusable_input_is_refused_where_it_is_read() {
    let evaluate = |name, pair| {
        Objective::from_name(name, &ObjectiveOptions::default())
            .unwrap()
            .evaluate(&[pair])
    };
    let nan = PairLogps {
        ref_rejected: f64::NAN,
        ..pair()
    };
    let text = evaluate("sigmoid", nan).unwrap_err().to_string();
    assert_eq!(
        text,
        "pair 0 of the batch: `ref_rejected` is NaN, expected a finite log-prob in nats"
    );
    assert!(evaluate("simpo", nan).is_ok());
    let empty = PairLogps {
        chosen_len: 0,
        rejected_len: 0,
        ..pair()
    };
    assert_eq!(
        evaluate("ipo", empty).unwrap_err(),
        ObjectiveError::EmptyCompletion {
            index: 0,
            field: "chosen_len"
        }
    );
    assert!(evaluate("sigmoid", empty).is_ok());
    // Finite input, no finite square.
    let huge = PairLogps {
        chosen: -1e200,
        ..pair()
    };
    assert!(matches!(
        evaluate("sppo", huge),
        Err(ObjectiveError::NonFiniteResult { index: 0, .. })
    ));
    for name in Objective::all_names() {
        let none = Objective::from_name(name, &ObjectiveOptions::default())
            .unwrap()
            .evaluate(&[]);
        assert_eq!(none, Ok(vec![]), "{name}");
    }
}
