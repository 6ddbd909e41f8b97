//! `unbraid objectives [NAME]`: formulas, derivatives, defaults, sources, printed from the code's own description.

use super::{End, output};
use crate::cli::ObjectivesConfig;
use anyhow::Result;
use unbraid_objective::describe::descriptions;
use unbraid_objective::{Description, Objective, ObjectiveOptions, describe};

fn show(d: &Description) -> String {
    let mut lines = vec![format!("{} — {}", d.name, d.title)];
    let mut say = |key: &str, value: &str| lines.push(format!("  {key:<9} {value}"));
    if !d.aliases.is_empty() {
        say("also", &d.aliases.join(", "));
    }
    say("form", d.formula);
    say("loss", d.loss);
    say("d_w", d.d_w);
    say("d_l", d.d_l);
    for (key, value, meaning) in d.defaults {
        say(key, &format!("{value}  ({meaning})"));
    }
    let rewards = Objective::from_name(d.name, &ObjectiveOptions::default());
    say(
        "reference",
        match d.needs_reference {
            true => "needed",
            // As TRL, whose rewards/* are relative to a reference under every loss of its DPO trainer.
            false if rewards.is_ok_and(|o| o.logs_reference()) => {
                "for the logged rewards/* alone (reference_free: log-probs in their place)"
            }
            false => "not used",
        },
    );
    say("source", d.source);
    say("TRL", d.trl_differences.unwrap_or("the same"));
    lines.join("\n") + "\n"
}

/// Prints what `config` asks for.
pub(super) fn run(config: &ObjectivesConfig) -> Result<End> {
    let text = match &config.name {
        Some(name) => {
            // Building it gives the error for an unknown name, with the nearest known one.
            Objective::from_name(name, &ObjectiveOptions::default())?;
            let description = describe(name);
            match description {
                Some(d) if !config.json => show(&d),
                d => serde_json::to_string_pretty(&d)? + "\n",
            }
        }
        None if config.json => {
            let all: Vec<_> = descriptions().collect();
            serde_json::to_string_pretty(&all)? + "\n"
        }
        None => {
            say!("unbraid objectives NAME shows one in full");
            descriptions()
                .map(|d| format!("{:<12} {}\n", d.name, d.title))
                .collect()
        }
    };
    output::print(&text)?;
    Ok(End::Done)
}
