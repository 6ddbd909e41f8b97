//! The page of one diagnosis: verdict, key figures, notes, figures, the table of pairs, token heat maps.

use std::path::{Path, PathBuf};

use super::findings::{Findings, share};
use super::heat_map::{self, Gram};
use super::record::{Case, Diagnosis};
use super::statistics::median;
use super::{figures, pairs_table, what_if};
use crate::error::Result;
use crate::page::{self, Extras, Page, escape, number, push};
use crate::run_page::tile;
use crate::verdict::Mood;
use crate::write::write_atomically;

/// Writes `report.html` into a diagnosis' directory and gives its path.
///
/// Reads `geometry.jsonl` or `proxies.jsonl` (an object per pair, fields as `unbraid diagnose` writes them) and, when
/// present, `summary.json`, `run.yaml`, `pairs.jsonl`, `heatmaps/pair-*.json` and `gram.json`. What is missing is left out,
/// damaged lines are noted on the page. The file is replaced atomically; the same files give the same bytes.
///
/// # Errors
/// [`ReportError::NotADiagnosis`](crate::ReportError::NotADiagnosis) without a file of rows,
/// [`ReportError::NoPairs`](crate::ReportError::NoPairs) when no line of it is a pair,
/// [`ReportError::Io`](crate::ReportError::Io) when reading or writing fails.
pub fn write_diagnosis_report(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("report.html");
    write_atomically(&path, &whole(dir)?.render())?;
    Ok(path)
}

/// The page before it is written.
pub(crate) fn whole(dir: &Path) -> Result<Page> {
    let of = &mut Diagnosis::read(dir)?;
    let mut notes = std::mem::take(&mut of.notes);
    let command = of
        .summary
        .command
        .clone()
        .or_else(|| of.settings.get("command"));
    let command = command.as_ref();
    let maps = heat_map::figures(&of.dir, command, &mut notes);
    let indices: Vec<u64> = maps.iter().map(|(index, _)| *index).collect();
    let pairs = pairs_table::section(of, &indices, &mut notes)?;
    let mut shown = figures::figures(of, command);
    if let Some(gram) = Gram::read(&of.dir, &mut notes) {
        shown.extend(gram.figures(command));
    }
    let mut extras = Extras {
        scripts: vec![page::PAIRS],
        ..Extras::default()
    };
    extras.tabs.extend(["proxies", "sweeps"].map(String::from));
    extras
        .tabs
        .extend(maps.iter().map(|(_, figure)| figure.id.clone()));
    extras
        .below
        .extend(what_if::table(of).map(|html| ("what-if".to_string(), html)));
    extras
        .below
        .extend(spearman_table(of).map(|html| ("proxies".to_string(), html)));
    extras
        .below
        .extend(fit_table(of).map(|html| ("prediction".to_string(), html)));
    extras
        .later
        .extend(maps.into_iter().map(|(_, figure)| figure));
    Ok(Page {
        title: of.name(),
        kicker: "Diagnosis".into(),
        facts: facts(of),
        stem: page::stem(&of.name()),
        opening_html: verdict_html(of) + &tiles_html(of) + &page::notes(&notes),
        figures: shown,
        sections: vec![pairs],
        sheets_html: settings_sheet(of),
        extras,
    })
}

fn settings_sheet(of: &Diagnosis) -> String {
    if of.settings.text.is_empty() {
        String::new()
    } else {
        page::sheet_of_text("Settings of the diagnosis (run.yaml)", &of.settings.text)
    }
}

fn facts(of: &Diagnosis) -> String {
    let summary = &of.summary;
    let parameters = match (summary.parameters.as_deref(), summary.trainable_parameters) {
        (Some("lora"), Some(count)) => Some(format!("{} adapter parameters", grouped(count))),
        (_, Some(count)) => Some(format!("{} parameters", grouped(count))),
        (Some(kind), None) => Some(format!("parameters: {kind}")),
        (None, None) => None,
    };
    let objective = summary
        .objective
        .as_ref()
        .map(|name| format!("objective {name}"));
    let rate = summary
        .learning_rate
        .map(|rate| format!("learning rate {rate:e}"));
    let parts = [
        summary.model.clone(),
        summary.data.clone(),
        objective,
        rate,
        parameters,
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

/// Digits in groups of three.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

fn verdict_html(of: &Diagnosis) -> String {
    let findings = Findings { of, number };
    let class = match findings.mood() {
        Mood::Good => "good",
        Mood::Entangled => "entangled",
        Mood::Bad => "bad",
        Mood::Still => "still",
    };
    let sentence = findings.entangled().unwrap_or_else(|| {
        format!("{} pairs with cheap measures only: no gradients were taken, so nothing is said on cases.", of.pairs.len())
    });
    let more = findings
        .in_order()
        .into_iter()
        .filter(|line| *line != sentence);
    // A number keeps its per-cent sign.
    let item = |line: String| format!("<li>{}</li>", escape(&line.replace(" %", "\u{a0}%")));
    let items: String = more.map(item).collect();
    let list = if items.is_empty() {
        String::new()
    } else {
        format!("<ul class=\"findings\">{items}</ul>")
    };
    format!(
        "<section class=\"verdict {class}\" aria-label=\"Verdict\"><p class=\"sentence\">{}</p>{list}</section>\n",
        escape(&sentence)
    )
}

fn tiles_html(of: &Diagnosis) -> String {
    let summary = &of.summary;
    let mut html = String::from("<dl class=\"tiles\">\n");
    html += &tile(
        "Pairs",
        &grouped(of.pairs.len() as u64),
        summary.data.as_deref().unwrap_or(""),
    );
    if let Some(cosine) = median(&of.values("grad_cosine")) {
        html += &tile("Gradient cosine", &two(cosine), "median");
    }
    let ratios = of.pairs.iter().filter_map(|pair| pair.ratios());
    let (chosen, rejected): (Vec<f64>, Vec<f64>) = ratios.unzip();
    for (norm, ratios) in [("‖g_w‖²", chosen), ("‖g_l‖²", rejected)] {
        if let Some(ratio) = median(&ratios) {
            html += &tile(
                &format!("⟨g_w, g_l⟩ / {norm}"),
                &two(ratio),
                "median; DPO’s limit is 1",
            );
        }
    }
    for (field, label) in figures::PROXIES
        .into_iter()
        .take(if of.proxies_only { 4 } else { 0 })
    {
        if let Some(value) = median(&of.values(field)) {
            html += &tile(label, &two(value), "median");
        }
    }
    html += &cases_tile(of);
    let memory = summary
        .peak_memory_bytes
        .map(|bytes| format!("{} GB at the peak", page::short(bytes as f64 / 1e9)));
    if let Some(seconds) = summary.seconds_per_pair {
        html += &tile("Time", &time(seconds), &memory.unwrap_or_default());
    }
    html + "</dl>\n"
}

/// Two decimals, more digits only where those would all be needed to see a large or a tiny number.
pub(crate) fn two(value: f64) -> String {
    let text = match value.abs() {
        size if size < 99.5 => format!("{value:.2}"),
        _ => return number(value),
    };
    let text = if text == "-0.00" {
        "0.00".to_string()
    } else {
        text
    };
    text.replace('-', "\u{2212}")
}

/// Seconds or milliseconds.
fn time(seconds: f64) -> String {
    if seconds < 0.1 {
        format!("{} ms a pair", page::short(1e3 * seconds))
    } else {
        format!("{} s a pair", two(seconds))
    }
}

fn cases_tile(of: &Diagnosis) -> String {
    let Some(cases) = of.cases() else {
        return String::new();
    };
    let (mut bar, mut words) = (String::new(), String::new());
    for case in Case::ALL
        .into_iter()
        .filter(|case| cases.count(*case) > 0.0)
    {
        let (class, part) = (case.key().replace('_', "-"), cases.share(case));
        push(
            &mut bar,
            format_args!("<span class=\"{class}\" style=\"flex-grow:{part:.4}\"></span>"),
        );
        push(
            &mut words,
            format_args!(
                "<span><span class=\"key {class}\"></span>{} {}</span>",
                case.name(),
                share(part)
            ),
        );
    }
    format!(
        "<div class=\"tile wide\"><dt>Cases of the pairs under {}, to first order</dt><dd><div class=\"bar\" \
         aria-hidden=\"true\">{bar}</div><div class=\"cases\">{words}</div></dd></div>\n",
        escape(of.objective())
    )
}

fn spearman_table(of: &Diagnosis) -> Option<String> {
    let known: Vec<_> = figures::PROXIES
        .into_iter()
        .filter_map(|(field, name)| Some((name, of.summary.proxies.get(field)?)))
        .collect();
    if known.is_empty() {
        return None;
    }
    let mut html = String::from(
        "<p class=\"lead\">Spearman’s rank correlation of each measure with the exact quantities on these pairs; the last column rests \
         on the pairs with a real step only.</p>\n<div \
         class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Rank correlations\"><table><thead><tr><th \
         scope=\"col\">measure</th><th scope=\"col\">inner product</th><th scope=\"col\">cosine</th><th scope=\"col\">realised change of \
         chosen</th></tr></thead><tbody>",
    );
    let cell = |rho: Option<f64>| rho.map_or("–".to_string(), two);
    for (name, rho) in known {
        push(
            &mut html,
            format_args!(
                "<tr><th scope=\"row\">{name}</th><td>{}</td><td>{}</td><td>{}</td></tr>",
                cell(rho.inner),
                cell(rho.cosine),
                cell(rho.realised)
            ),
        );
    }
    Some(html + "</tbody></table></div>\n")
}

/// How well each prediction of the real step did.
fn fit_table(of: &Diagnosis) -> Option<String> {
    let fits = Findings { of, number }.fits();
    let mut rows = String::new();
    for (side, fit) in ["chosen", "rejected"].into_iter().zip(fits) {
        let Some((plain, update)) = fit else { continue };
        for (name, fit) in [
            ("plain gradient descent, own pair", plain),
            ("the update that was made", update),
        ] {
            push(
                &mut rows,
                format_args!(
                    "<tr><th scope=\"row\">{side}, {name}</th><td>{}</td><td>{}</td></tr>",
                    two(fit.correlation),
                    two(fit.ratio)
                ),
            );
        }
    }
    (!rows.is_empty()).then(|| {
        format!(
            "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Agreement\"><table><thead><tr><th \
             scope=\"col\">prediction</th><th scope=\"col\">correlation with reality</th><th scope=\"col\">realised over \
             predicted, median</th></tr></thead><tbody>{rows}</tbody></table></div>\n"
        )
    })
}
