//! `unbraid objectives [NAME]`: formulas, derivatives, defaults, sources, printed from the code's own description.

use super::End;
use crate::cli::ObjectivesConfig;
use anyhow::Result;
use unbraid_objective::describe::descriptions;
use unbraid_objective::{Description, Objective, ObjectiveOptions, describe};

fn show(d: &Description) {
    println!("{} — {}", d.name, d.title);
    if !d.aliases.is_empty() {
        println!("  also      {}", d.aliases.join(", "));
    }
    println!("  form      {}", d.formula);
    println!("  loss      {}", d.loss);
    println!("  d_w       {}", d.d_w);
    println!("  d_l       {}", d.d_l);
    for (key, value, meaning) in d.defaults {
        println!("  {key:<9} {value}  ({meaning})");
    }
    println!(
        "  reference {}",
        if d.needs_reference {
            "needed"
        } else {
            "not used"
        }
    );
    println!("  source    {}", d.source);
    println!("  TRL       {}", d.trl_differences.unwrap_or("the same"));
}

/// Prints what `config` asks for.
pub(super) fn run(config: &ObjectivesConfig) -> Result<End> {
    match &config.name {
        Some(name) => {
            // Building it gives the error for an unknown name, with the nearest known one.
            Objective::from_name(name, &ObjectiveOptions::default())?;
            if let Some(d) = describe(name) {
                if config.json {
                    println!("{}", serde_json::to_string_pretty(&d)?);
                } else {
                    show(&d);
                }
            }
        }
        None if config.json => {
            let all: Vec<_> = descriptions().collect();
            println!("{}", serde_json::to_string_pretty(&all)?);
        }
        None => {
            for d in descriptions() {
                println!("{:<12} {}", d.name, d.title);
            }
            eprintln!("unbraid objectives NAME shows one in full");
        }
    }
    Ok(End::Done)
}
