//! The map of pairs: ⟨g_w,g_l⟩ over either squared norm, with the conditions of the configured objective as lines.
//!
//! Chosen rises while ⟨g_w,g_l⟩ ≤ (d_w/d_l) ‖g_w‖² (paper eq. 9), rejected falls while ⟨g_w,g_l⟩ ≤ (d_l/d_w) ‖g_l‖²
//! (eq. 10). Both axes are divided by their condition's right side, so that both lines stand at 1 also where d_w/d_l
//! differs from pair to pair; where it is 1 throughout, as under DPO, the axes are the bare ratios. Their product is the
//! squared cosine, which Cauchy–Schwarz keeps below 1: points lie between the hyperbola and the axes.

use super::record::{Case, Diagnosis, Pair};
use crate::figure::{Cell, Figure, Kind, Panel, Series, Table};

/// More points are thinned out evenly.
const MAX_POINTS: usize = 5_000;
/// Ratios beyond this bend the axes.
const LINEAR_UP_TO: f64 = 3.0;

/// The figure, or nothing without gradients.
pub(crate) fn figure(of: &Diagnosis, command: Option<&String>) -> Option<Figure> {
    let weights = of.pairs.iter().filter_map(Pair::weight_ratio);
    let equal = weights.clone().all(|ratio| (ratio - 1.0).abs() < 1e-6);
    let scaled = weights.count() > 0 && !equal;
    let mut points: Vec<_> = of
        .pairs
        .iter()
        .filter_map(|pair| Some((pair, place(pair, scaled)?)))
        .collect();
    let found = points.len();
    let measured = of.pairs.iter().filter(|pair| pair.ratios().is_some());
    let unweighed = measured.count() - found;
    let every = found.div_ceil(MAX_POINTS).max(1);
    let mut at = 0;
    points.retain(|_| {
        at += 1;
        (at - 1) % every == 0
    });
    if points.is_empty() {
        return None;
    }
    let far = points
        .iter()
        .any(|(_, (x, y))| x.abs() > LINEAR_UP_TO || y.abs() > LINEAR_UP_TO);
    let mut table = Table::with_header(&["case", "index", "x", "y", "cosine"]);
    for (pair, (x, y)) in &points {
        table.push(&[
            Cell::Text(case(pair).key().into()),
            Cell::Number(pair.index as f64),
            Cell::Number(*x),
            Cell::Number(*y),
            pair.get("grad_cosine").map_or(Cell::Empty, Cell::Number),
        ]);
    }
    let present = |one: &Case| points.iter().any(|(pair, _)| case(pair) == *one);
    let series = Case::ALL
        .into_iter()
        .filter(present)
        .map(|case| Series::new(case.name(), case.role(), ("case", case.key()), "x", "y"));
    let (x_label, y_label) = if scaled {
        (
            "⟨g_w, g_l⟩ / ‖g_w‖² · d_l/d_w",
            "⟨g_w, g_l⟩ / ‖g_l‖² · d_w/d_l",
        )
    } else {
        ("⟨g_w, g_l⟩ / ‖g_w‖²", "⟨g_w, g_l⟩ / ‖g_l‖²")
    };
    let panel = Panel {
        kind: Kind::Plane,
        asinh: far,
        x_label: x_label.into(),
        series: series.collect(),
        ..Panel::over_steps("Pairs among the conditions", y_label)
    };
    Some(Figure {
        id: "map".into(),
        title: "Map of the pairs".into(),
        caption: caption(of.objective(), scaled, far, every, unweighed),
        command: command.cloned(),
        panels: vec![panel],
        csv: table.into_csv(),
    })
}

fn case(pair: &Pair) -> Case {
    pair.outcome.map_or(Case::Still, |outcome| outcome.case)
}

/// Both ratios, each over its condition's weights where `scaled`. Where the objective does not push both sides the way it
/// should, the conditions say nothing and the pair has no place.
fn place(pair: &Pair, scaled: bool) -> Option<(f64, f64)> {
    let (x, y) = pair.ratios()?;
    if pair.outcome.is_some() {
        pair.weight_ratio()?;
    }
    if !scaled {
        return Some((x, y));
    }
    let ratio = pair.weight_ratio()?;
    Some((x / ratio, y * ratio))
}

fn caption(objective: &str, scaled: bool, far: bool, every: usize, unweighed: usize) -> String {
    let mut caption = format!(
        "Right of the upright line a step under {objective} lowers chosen, above the level line it raises rejected (the paper's \
         equations 9 and 10); in the corner below both the pair is ideal. No pair can lie beyond the curve (Cauchy–Schwarz), so \
         at most one condition fails. Pointing at a pair shows its text, clicking opens it in the table."
    );
    if scaled {
        caption += " The objective weighs chosen and rejected differently (d_w, d_l), so each ratio is divided by its condition's \
                    limit, which puts both lines at 1.";
    }
    if far {
        caption += " Axes are straight near zero and logarithmic further out.";
    }
    if unweighed > 0 {
        let pairs = if unweighed == 1 {
            "pair is"
        } else {
            "pairs are"
        };
        caption += &format!(
            " {unweighed} {pairs} not drawn: there {objective} does not push chosen up and rejected down both, and the conditions say \
             nothing."
        );
    }
    if every > 1 {
        caption += &format!(" One in {every} pairs is drawn.");
    }
    caption
}
