//! The page of a check: verdict, key figures, the table of statements, figures, and what happens where an assumption fails.

use std::path::{Path, PathBuf};

use super::record::Theory;
use super::{figures, tables};
use crate::error::Result;
use crate::page::{Extras, Page, Section, escape, push};
use crate::run_page::tile;
use crate::write::write_atomically;

/// Writes `report.html` into the directory of a check and gives its path.
///
/// Reads `theory.json` as `unbraid theory` writes it. The file is replaced atomically; the same record gives the same bytes.
///
/// # Errors
/// [`ReportError::Io`](crate::ReportError::Io) when `theory.json` is missing or cannot be understood, or writing fails.
pub fn write_theory_report(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("report.html");
    write_atomically(&path, &whole(dir)?.render())?;
    Ok(path)
}

/// The page before it is written.
pub(crate) fn whole(dir: &Path) -> Result<Page> {
    let of = &Theory::read(dir)?;
    let section = Section {
        id: "assumptions".into(),
        title: "Where an assumption fails".into(),
        html: tables::relaxed(of),
    };
    Ok(Page {
        title: "Theory: predicted against computed".into(),
        kicker: "Check of the theory".into(),
        facts: facts(of),
        stem: "theory".into(),
        opening_html: verdict(of) + &tiles(of) + &tables::statements(of),
        figures: figures::figures(of),
        sections: vec![section],
        sheets_html: String::new(),
        extras: Extras::default(),
    })
}

fn facts(of: &Theory) -> String {
    let mut parts = vec![
        of.source.clone(),
        format!("seed {}", of.seed),
        format!("{} random instances a statement", of.random_instances),
    ];
    parts.extend(
        of.unbraid
            .as_ref()
            .map(|version| format!("Unbraid {version}")),
    );
    parts.join(" · ")
}

fn verdict(of: &Theory) -> String {
    let class = if of.holds { "good" } else { "bad" };
    let mut html = format!(
        "<section class=\"verdict {class}\" aria-label=\"Verdict\"><p class=\"sentence\">{}</p>",
        escape(&of.sentence())
    );
    if !of.disagreements.is_empty() {
        html += "<ul class=\"findings\">";
        for line in &of.disagreements {
            push(&mut html, format_args!("<li>{}</li>", escape(line)));
        }
        html += "</ul>";
    }
    html + "<p class=\"basis\">Each instance is a random or an adversarial model of a few thousand parameters. The closed form is \
            compared with inner products and derivatives that the engine computes as in training, and with steps that were really \
            made.</p></section>\n"
}

fn tiles(of: &Theory) -> String {
    let values: usize = of.statements.iter().map(|s| s.values).sum();
    let adversarial: Vec<usize> = of.statements.iter().map(|s| s.adversarial).collect();
    let (exact, fast) = of.worst();
    let smallest = of.statements.iter().filter_map(|s| s.steps.last());
    let step = smallest
        .filter_map(|s| Some((s.nats, s.worst_error?)))
        .max_by(|a, b| a.1.total_cmp(&b.1));
    let number = |x: f64| tables::power(Some(x).filter(|x| x.is_finite()));
    let least = adversarial.iter().min().copied().unwrap_or(0);
    let most = adversarial.iter().max().copied().unwrap_or(0);
    let mut html = String::from("<dl class=\"tiles\">\n");
    html += &tile(
        "Statements that hold",
        &format!("{} of {}", of.holding(), of.statements.len()),
        &format!("{values} values compared"),
    );
    html += &tile(
        "Instances a statement",
        &of.random_instances.to_string(),
        &match least == most {
            true => format!("random, and {least} adversarial"),
            false => format!("random, and {least} to {most} adversarial"),
        },
    );
    html += &tile(
        "Largest error in f64",
        &number(exact),
        "predicted against computed",
    );
    html += &tile(
        "Largest error in f32",
        &number(fast),
        "the fast backend, same prediction",
    );
    if let Some((nats, worst)) = step {
        html += &tile(
            "Largest error of a real step",
            &number(worst),
            &format!("of the margin’s change, at {} nats", number(nats)),
        );
    }
    html + "</dl>\n"
}
