//! What held-out pairs show against steps: log-probs, their changes, and the gradients of chosen and rejected.

use super::results::{Arm, Results, Subject};
use crate::figure::{Cell, Figure, Panel, Role, Series, Table};
use crate::svg::round_range;

/// Panels share one scale unless the widest range is so many times the narrowest that lines would look flat.
const SHARED_UP_TO: f64 = 12.0;
/// A mean stands in the column of seeds under this name.
const MEAN: &str = "mean";

const SIDES: [(&str, Role); 2] = [("chosen", Role::Chosen), ("rejected", Role::Rejected)];

/// The experiment's curves: figures 3 (or 1 and 2), the changes they make, and figure 4(a).
pub(crate) fn figures(of: &Results) -> Vec<Figure> {
    let change = match of.subject() {
        Subject::Sentiment => change(of),
        // A line for each of ten objectives in one panel is a tangle: a panel each.
        Subject::Objectives => change_by_objective(of),
    };
    let found = [log_probs(of), change, gradients(of)];
    found.into_iter().flatten().collect()
}

/// Log-probs of chosen and rejected, a panel an arm.
fn log_probs(of: &Results) -> Option<Figure> {
    let sentiment = of.subject() == Subject::Sentiment;
    let arms = if sentiment {
        of.plain_arms()
    } else {
        of.grouped_arms()
    };
    let arms: Vec<&Arm> = with_any(arms, &["logps/chosen", "logps/rejected"]);
    let keys = ["logps/chosen", "logps/rejected"];
    let mut panels = by_arm(&arms, "logps", "log-prob of a completion, nats");
    let shared = share_scale(&mut panels, &arms, &keys);
    let (title, source, each) = if sentiment {
        (
            "Log-probs by style",
            "Figure 3 of the paper",
            "a panel a style",
        )
    } else {
        (
            "Log-probs by objective",
            "Figures 1 and 2 of the paper",
            "a panel an objective",
        )
    };
    let scale = if shared {
        "All panels have the same scale."
    } else {
        "Ranges differ too much for one scale: each panel has its own."
    };
    let caption = format!(
        "{source}, measured anew: mean log-prob of the chosen and the rejected completions of held-out pairs, {each}. Where \
         both lines fall together, training made the preferred completion less likely as well. {scale}{}",
        thin(&arms)
    );
    finished(of, "log-probs", title, caption, panels, &arms, &keys)
}

/// A panel an arm with what stands under `key/chosen` and `key/rejected`.
fn by_arm(arms: &[&Arm], key: &str, unit: &str) -> Vec<Panel> {
    let of_arm = |arm: &&Arm| {
        let series = SIDES.iter();
        let series =
            series.flat_map(|(side, role)| lines(arm, side, *role, &format!("{key}/{side}")));
        panel(&arm.name, unit, series.collect())
    };
    arms.iter().map(of_arm).collect()
}

/// Changes since the start, a panel an arm.
fn change_by_objective(of: &Results) -> Option<Figure> {
    let keys = ["change/chosen", "change/rejected"];
    let arms = with_any(of.grouped_arms(), &keys);
    let mut panels = by_arm(&arms, "change", "nats since the start");
    let scale = match share_scale(&mut panels, &arms, &keys) {
        true => "All panels have the same scale.",
        false => "Ranges differ too much for one scale: each panel has its own.",
    };
    let caption = format!(
        "The same lines moved to a common start, since chosen and rejected completions of other lengths lie far apart. Above \
         zero the completion has become more likely. {scale}{}",
        thin(&arms)
    );
    let title = "Change since the start";
    finished(of, "change", title, caption, panels, &arms, &keys)
}

/// Changes since the start, all styles in one panel a side.
fn change(of: &Results) -> Option<Figure> {
    let keys = ["change/chosen", "change/rejected"];
    let arms = with_any(of.plain_arms(), &keys);
    let panels = sides(&arms, |arm| arm.name.clone(), None);
    let caption = format!(
        "The same lines moved to a common start, chosen and rejected apart, since chosen may move far less than rejected. \
         Above zero the completion has become more likely.{}",
        thin(&arms)
    );
    let title = "Change since the start";
    finished(of, "change", title, caption, panels, &arms, &keys)
}

/// The same for the arms of each style or objective that was trained under remedies, a tab each.
pub(crate) fn remedies(of: &Results) -> Option<Figure> {
    let keys = ["change/chosen", "change/rejected"];
    let (mut panels, mut all) = (Vec::new(), Vec::new());
    for (name, arms) in of.groups() {
        let arms = with_any(arms, &keys);
        if arms.iter().all(|arm| arm.is_plain()) {
            continue;
        }
        panels.extend(sides(&arms, remedy_name, Some(name)));
        all.extend(arms);
    }
    let caption = format!(
        "Change of the held-out log-probs since the start, a line a remedy. A remedy works if it keeps chosen up while \
         rejected still falls.{}",
        thin(&all)
    );
    let title = "Remedies against steps";
    finished(of, "remedies", title, caption, panels, &all, &keys)
}

/// Cosine and ratio of the gradients of held-out pairs, a line an arm without a remedy.
fn gradients(of: &Results) -> Option<Figure> {
    let keys = ["geometry/cosine", "geometry/ratio_chosen"];
    let arms = with_any(of.plain_arms(), &keys);
    let shown = [
        ("Cosine", "between g_w and g_l, mean over pairs", keys[0]),
        (
            "Inner product over ‖g_w‖²",
            "⟨g_w, g_l⟩ / ‖g_w‖², ratio of the means",
            keys[1],
        ),
    ];
    let panels = shown.into_iter().map(|(title, unit, key)| Panel {
        guide: true,
        ..panel(title, unit, one_each(&arms, key, |arm| arm.name.clone()))
    });
    let panels: Vec<Panel> = panels.filter(|panel| !panel.series.is_empty()).collect();
    let source = match of.subject() {
        Subject::Sentiment => "Figure 4(a) of the paper, measured anew: how",
        Subject::Objectives => "How",
    };
    let caption = format!(
        "{source} much the gradients of the chosen and the rejected completion of a held-out pair point the same way. Where \
         ⟨g_w, g_l⟩ exceeds ‖g_w‖² (a ratio above 1), a plain gradient step of DPO on the pair lowers chosen.{}",
        thin(&arms)
    );
    let title = "Gradient entanglement";
    finished(of, "gradients", title, caption, panels, &arms, &keys)
}

/// A panel for chosen and one for rejected, a line an arm.
fn sides(arms: &[&Arm], name: impl Fn(&Arm) -> String, tab: Option<&str>) -> Vec<Panel> {
    let panels = SIDES.map(|(side, _)| {
        let title = match tab {
            Some(tab) => format!("{tab}: {side}"),
            None => ["Chosen", "Rejected"][usize::from(side == "rejected")].to_string(),
        };
        Panel {
            guide: true,
            tab: tab.map(String::from),
            ..panel(
                &title,
                "nats since the start",
                one_each(arms, &format!("change/{side}"), &name),
            )
        }
    });
    let panels = panels.into_iter();
    panels.filter(|panel| !panel.series.is_empty()).collect()
}

fn remedy_name(arm: &Arm) -> String {
    match arm.is_plain() {
        true => "no remedy".into(),
        false => arm.remedy().into(),
    }
}

/// A line of `key` for each arm: the means first, so that the n-th has the n-th dash, then the seeds.
fn one_each(arms: &[&Arm], key: &str, name: impl Fn(&Arm) -> String) -> Vec<Series> {
    let all = arms.iter().enumerate();
    let all = all.flat_map(|(at, arm)| lines(arm, &name(arm), Role::Run(at), key));
    let (seeds, mut means): (Vec<Series>, Vec<Series>) = all.partition(|one| one.faint);
    means.extend(seeds);
    means
}

/// The mean of an arm, and each seed's line where there are several.
fn lines(arm: &Arm, name: &str, role: Role, key: &str) -> Vec<Series> {
    if !arm.has(key) {
        return Vec::new();
    }
    let seeds = seed_labels(arm).into_iter().enumerate();
    let lines = seeds.map(|(at, seed)| {
        let mut series = Series::new(name, role, ("arm", &arm.name), "step", key);
        series.rows.insert("seed".into(), seed);
        series.faint = at > 0;
        series
    });
    lines.collect()
}

/// Values of the column of seeds: the mean's first; a single run stands for itself.
fn seed_labels(arm: &Arm) -> Vec<String> {
    let seeds = arm.runs.iter().map(|run| run.seed.to_string());
    match arm.runs.len() {
        0 | 1 => seeds.collect(),
        _ => std::iter::once(MEAN.to_string()).chain(seeds).collect(),
    }
}

/// A row for each arm, seed and step.
fn table(arms: &[&Arm], keys: &[&str]) -> String {
    let mut table = Table::over_steps(&["arm", "seed"], keys);
    let mut push = |arm: &Arm, seed: &str, step: u64, values: Vec<Option<f64>>| {
        let mut cells = vec![
            Cell::Text(arm.name.clone()),
            Cell::Text(seed.to_string()),
            Cell::Number(step as f64),
        ];
        let values = values.into_iter();
        cells.extend(values.map(|value| value.map_or(Cell::Empty, Cell::Number)));
        table.push(&cells);
    };
    for arm in arms {
        if arm.runs.len() > 1 {
            let means: Vec<_> = keys.iter().map(|key| arm.means(key)).collect();
            let steps = means.iter().flat_map(|of_key| of_key.keys().copied());
            for step in steps.collect::<std::collections::BTreeSet<u64>>() {
                let values = means.iter().map(|of_key| of_key.get(&step).copied());
                push(arm, MEAN, step, values.collect());
            }
        }
        for run in &arm.runs {
            for at in &run.evaluations {
                let values: Vec<_> = keys
                    .iter()
                    .map(|key| at.metrics.get(*key).copied())
                    .collect();
                if values.iter().any(Option::is_some) {
                    push(arm, &run.seed.to_string(), at.step, values);
                }
            }
        }
    }
    table.into_csv()
}

fn with_any<'a>(arms: Vec<&'a Arm>, keys: &[&str]) -> Vec<&'a Arm> {
    let any = |arm: &&Arm| keys.iter().any(|key| arm.has(key));
    arms.into_iter().filter(any).collect()
}

fn panel(title: &str, unit: &str, series: Vec<Series>) -> Panel {
    // Chosen and rejected first: their seeds must not shift the dashes.
    let (seeds, mut series): (Vec<Series>, Vec<Series>) =
        series.into_iter().partition(|one| one.faint);
    series.extend(seeds);
    Panel {
        series,
        ..Panel::over_steps(title, unit)
    }
}

/// One range of y for all panels, unless they differ too much. Says whether it was set.
fn share_scale(panels: &mut [Panel], arms: &[&Arm], keys: &[&str]) -> bool {
    let range = |arm: &Arm| {
        let runs = arm.runs.iter().flat_map(|run| &run.evaluations);
        let values = runs.flat_map(|at| keys.iter().filter_map(|key| at.metrics.get(*key)));
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), value| {
            (value.min(lo), value.max(hi))
        })
    };
    let ranges: Vec<(f64, f64)> = arms.iter().map(|arm| range(arm)).collect();
    let wide = |(lo, hi): &(f64, f64)| hi - lo;
    let all = ranges
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |all, one| {
            (all.0.min(one.0), all.1.max(one.1))
        });
    let narrowest = ranges.iter().map(wide).fold(f64::INFINITY, f64::min);
    let shared = wide(&all) <= SHARED_UP_TO * narrowest;
    if shared {
        let range = round_range(all);
        panels
            .iter_mut()
            .for_each(|panel| panel.y_range = Some(range));
    }
    shared
}

/// What the thin lines are, where there are any.
fn thin(arms: &[&Arm]) -> String {
    let most = arms.iter().map(|arm| arm.runs.len()).max().unwrap_or(0);
    if most > 1 {
        format!(" Thick lines are means over up to {most} seeds, thin ones the seeds.")
    } else {
        String::new()
    }
}

fn finished(
    of: &Results,
    id: &str,
    title: &str,
    caption: String,
    panels: Vec<Panel>,
    arms: &[&Arm],
    keys: &[&str],
) -> Option<Figure> {
    (!panels.is_empty()).then(|| Figure {
        id: id.into(),
        title: title.into(),
        caption,
        command: of.command.clone(),
        panels,
        csv: table(arms, keys),
    })
}
