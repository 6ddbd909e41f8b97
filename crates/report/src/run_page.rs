//! The page of one run: verdict, key figures, notes, figures (`run_figures.rs`), settings.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::gram_split;
use crate::page::{self, Page, escape, number, push, signed};
use crate::predictions;
use crate::record::RunRecord;
use crate::run_figures::{capitalised, figures};
use crate::token_mask;
use crate::verdict::{Basis, FURTHER, Geometry, Mood, Trend, further_trend, judge, percent};
use crate::write::write_atomically;

/// Writes `report.html` into the run's directory and gives its path.
///
/// Reads `metrics.jsonl` (one JSON object per logged step, keys as `unbraid train` writes them), and, when present,
/// `run.yaml`, `gram.jsonl` (per measured step the origin of each response's predicted change), `predictions.jsonl` (per
/// pair of a step what was predicted and what came), `token_mask.jsonl` (a JSON object per shown pair: `index`, `chosen_tokens`, `chosen_share`,
/// `rejected_tokens`, `rejected_share`, optional `prompt`; shares from 0 to 1) and `summary.json`. Damaged lines, values that are not finite and resumed runs are noted on the page.
/// The file is replaced atomically; the same records give the same bytes.
///
/// # Errors
/// [`ReportError::NotARun`](crate::ReportError::NotARun) without `metrics.jsonl`,
/// [`ReportError::NoSteps`](crate::ReportError::NoSteps) when no line of it is a logged step,
/// [`ReportError::Io`](crate::ReportError::Io) when reading or writing fails.
pub fn write_run_report(run_dir: &Path) -> Result<PathBuf> {
    let run = RunRecord::read(run_dir)?;
    let path = run_dir.join("report.html");
    write_atomically(&path, &page(&run).render())?;
    Ok(path)
}

/// The page before it is written.
pub(crate) fn page(run: &RunRecord) -> Page {
    let (splits, damaged_splits) = gram_split::read(run);
    let (predictions, damaged_predictions) = predictions::read(&run.dir);
    let mut notes = run.notes.clone();
    notes.extend(damaged_splits.into_iter().chain(damaged_predictions));
    if run.unpaired() {
        notes.push("this run judged single rows, not pairs: “chosen” are the completions labelled good, “rejected” those \
                    labelled bad; a step whose rows are all of one kind has no point on the other side".to_string());
    } else if !run.has_geometry() {
        notes.push("no gradients were measured in this run: `--geometry every` or `--geometry N` adds cosines, cases and \
                    predictions".to_string());
    }
    let (figures, thinned) = figures(run, &splits, &predictions);
    if thinned > 1 {
        notes.push(format!("figures and their tables show one in {thinned} logged steps; metrics.jsonl has all of them"));
    }
    let mut sheets = String::new();
    if let Some(summary) = &run.summary {
        sheets += &page::sheet_of_text("summary.json", summary);
    }
    if !run.settings.text.is_empty() {
        sheets += &page::sheet_of_text("Settings of the run (run.yaml)", &run.settings.text);
    }
    Page {
        title: run.name(),
        kicker: "Training run".into(),
        facts: facts(run),
        stem: page::stem(&run.name()),
        opening_html: verdict_html(run) + &tiles_html(run) + &page::notes(&notes),
        figures,
        sections: token_mask::section(&run.masked).into_iter().collect(),
        sheets_html: sheets,
        extras: page::Extras::default(),
    }
}

/// Model, data and objective, as far as the settings name them.
fn facts(run: &RunRecord) -> String {
    let setting =
        |key: &str, label: &str| run.settings.get(key).map(|value| format!("{label}{value}"));
    let known = [
        setting("model_name_or_path", ""),
        setting("dataset_name", ""),
    ];
    let rates = [
        setting("beta", "β "),
        setting("learning_rate", "learning rate "),
    ];
    let method = run.method().facts();
    let known = known.into_iter().flatten().chain(method);
    let known = known.chain(rates.into_iter().flatten());
    known.collect::<Vec<_>>().join(" · ")
}

fn verdict_html(run: &RunRecord) -> String {
    let Some(verdict) = judge(run, Basis::of(run)) else {
        return "<section class=\"verdict still\"><p class=\"sentence\">The records hold neither log-probs nor rewards: no \
                verdict.</p></section>\n"
            .to_string();
    };
    let class = match verdict.mood {
        Mood::Good => "good",
        Mood::Entangled => "entangled",
        Mood::Bad => "bad",
        Mood::Still => "still",
    };
    let why: String = verdict
        .why
        .iter()
        .map(|why| format!("<p class=\"basis\">{}</p>", escape(why)))
        .collect();
    format!(
        "<section class=\"verdict {class}\" aria-label=\"Verdict\"><p class=\"sentence\">{}</p>{why}<p class=\"basis\">Rests \
         on {}.</p></section>\n",
        escape(&verdict.sentence),
        escape(&verdict.basis)
    )
}

fn tiles_html(run: &RunRecord) -> String {
    let basis = Basis::of(run);
    let mut html = String::from("<dl class=\"tiles\">\n");
    let watched = run
        .attribution
        .as_ref()
        .filter(|_| basis == Basis::Training);
    if let Some(attribution) = watched {
        for (label, before, after, change) in attribution.rows() {
            let label = format!("{}, {}", capitalised(label), attribution.watched());
            let ends = format!(
                "{} <span class=\"arrow\">→</span> {}",
                number(before),
                number(after)
            );
            html += &tile(
                &label,
                &ends,
                &format!("{} nats", change.replace('-', "\u{2212}")),
            );
        }
    }
    // Log-probs of two training batches are of different completions: their difference says nothing.
    let sides = match basis {
        Basis::HeldOut => [
            ("Chosen log-prob", "logps/chosen", " nats"),
            ("Rejected log-prob", "logps/rejected", " nats"),
        ],
        Basis::Training => [
            ("Chosen reward", "rewards/chosen", ""),
            ("Rejected reward", "rewards/rejected", ""),
        ],
    };
    let rows = [
        sides[0],
        sides[1],
        ("Reward margin", "rewards/margins", ""),
        ("Reward accuracy", "rewards/accuracies", "%"),
        ("Loss", "loss", ""),
    ];
    for (label, key, unit) in rows {
        if let Some(trend) = basis.trend(run, key) {
            html += &trend_tile(&format!("{label}, {}", basis.label(run)), trend, unit);
        }
    }
    for (label, key, unit) in FURTHER {
        if let Some((basis, trend)) = further_trend(run, basis, key) {
            html += &trend_tile(
                &format!("{}, {}", capitalised(label), basis.label(run)),
                trend,
                unit,
            );
        }
    }
    html += &geometry_tiles(&Geometry::of(run));
    let epochs = run
        .train
        .values("epoch")
        .last()
        .map(|epochs| format!("{} epochs", page::short(*epochs)));
    let speed = run
        .train
        .mean("tokens_per_second")
        .map(|speed| format!("{} tokens/s", page::short(speed.round())));
    let more: Vec<String> = epochs.into_iter().chain(speed).collect();
    html += &tile(
        "Optimizer steps",
        &run.last_step().to_string(),
        &more.join(", "),
    );
    html + "</dl>\n"
}

fn trend_tile(label: &str, trend: Trend, unit: &str) -> String {
    if trend.change() == 0.0 {
        let value = if unit == "%" {
            percent(trend.end)
        } else {
            number(trend.end)
        };
        return tile(label, &value, "no change");
    }
    let (start, end, change) = match unit {
        "%" => (
            percent(trend.start),
            percent(trend.end),
            format!("{:+.0} points", 100.0 * trend.change()).replace('-', "\u{2212}"),
        ),
        _ => (
            number(trend.shown(trend.start)),
            number(trend.shown(trend.end)),
            format!("{}{unit}", signed(trend.shown(trend.change()))),
        ),
    };
    tile(
        label,
        &format!("{start} <span class=\"arrow\">→</span> {end}"),
        &change,
    )
}

fn geometry_tiles(geometry: &Geometry) -> String {
    let mut html = String::new();
    let steps = format!(
        "mean of {} measured step{}",
        geometry.steps,
        if geometry.steps == 1 { "" } else { "s" }
    );
    if let Some(cosine) = geometry.cosine {
        html += &tile(
            "Gradient cosine, chosen and rejected",
            &number(cosine),
            &steps,
        );
    }
    if let Some([ideal, both_fall, both_rise]) = geometry.cases {
        let other = (1.0 - ideal - both_fall - both_rise).max(0.0);
        let cases = [
            ("ideal", ideal),
            ("both fall", both_fall),
            ("both rise", both_rise),
            ("other", other),
        ];
        let (mut bar, mut words) = (String::new(), String::new());
        for (name, share) in cases
            .into_iter()
            .filter(|(name, share)| *name != "other" || *share > 0.005)
        {
            let class = name.replace(' ', "-");
            push(
                &mut bar,
                format_args!("<span class=\"{class}\" style=\"flex-grow:{share:.4}\"></span>"),
            );
            push(
                &mut words,
                format_args!(
                    "<span><span class=\"key {class}\"></span>{name} {}</span>",
                    percent(share)
                ),
            );
        }
        push(
            &mut html,
            format_args!(
                "<div class=\"tile wide\"><dt>Cases of the pairs, to first order, {steps}</dt><dd><div class=\"bar\" \
                 aria-hidden=\"true\">{bar}</div><div class=\"cases\">{words}</div></dd></div>\n"
            ),
        );
    }
    html
}

/// `value` is markup, the rest text.
pub(crate) fn tile(label: &str, value: &str, more: &str) -> String {
    format!(
        "<div class=\"tile\"><dt>{}</dt><dd><div class=\"value\">{value}</div><div class=\"more\">{}</div></dd></div>\n",
        escape(label),
        escape(more)
    )
}
