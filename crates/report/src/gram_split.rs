//! Who moved a log-prob: its own gradient, its partner's, or the other pairs of the batch.
//!
//! A step of plain gradient descent with rate η on a batch loss changes response i by −η Σ_j c_j ⟨g_j, g_i⟩, with c_j
//! the loss's derivative by log-prob j (SPEC §4). The sum has three parts: j = i, j = the other completion of the same
//! pair, and all others. `gram.jsonl` holds them for each response of each measured step (`--gram-every N`); where that
//! file is missing, the step's means in `metrics.jsonl` serve (`geometry/own_chosen`, …).
//!
//! First order, and plain gradient descent: what the optimizer made of it is in `predictions.rs`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::figure::{Cell, Figure, Kind, MAX_ROWS, Panel, Role, Series, Table, window};
use crate::jsonl;
use crate::page::signed;
use crate::record::RunRecord;
use crate::run_figures::capitalised;
use crate::verdict::percent;

const FILE: &str = "gram.jsonl";
const SIDES: [&str; 2] = ["chosen", "rejected"];

/// The change of a response's log-prob by origin, nats.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Parts {
    own: f64,
    partner: f64,
    others: f64,
}

impl Parts {
    fn total(self) -> f64 {
        self.own + self.partner + self.others
    }

    fn each(self) -> [f64; 4] {
        [self.own, self.partner, self.others, self.total()]
    }

    fn add(&mut self, other: Self) {
        self.own += other.own;
        self.partner += other.partner;
        self.others += other.others;
    }

    fn over(self, count: f64) -> Self {
        Self {
            own: self.own / count,
            partner: self.partner / count,
            others: self.others / count,
        }
    }

    fn is_finite(self) -> bool {
        self.total().is_finite()
    }
}

/// Step → means over the step's pairs of chosen and of rejected; a side without finite values is `None`.
pub(crate) type Splits = BTreeMap<u64, [Option<Parts>; 2]>;

/// A row of the file; the matrix, which no figure shows, is not kept.
#[derive(Deserialize)]
struct Row {
    step: u64,
    split: Vec<Response>,
}

#[derive(Deserialize)]
struct Response {
    response: String,
    own: Option<f64>,
    partner: Option<f64>,
    others: Option<f64>,
}

impl Row {
    /// The mean over the responses of one side.
    fn side(&self, side: &str) -> Option<Parts> {
        let (mut sum, mut count) = (Parts::default(), 0.0);
        for response in &self.split {
            let this = response.response.rsplit('/').next() == Some(side);
            let parts = || {
                Some(Parts {
                    own: response.own?,
                    partner: response.partner?,
                    others: response.others?,
                })
            };
            if let Some(parts) = parts().filter(|parts| this && parts.is_finite()) {
                sum.add(parts);
                count += 1.0;
            }
        }
        (count > 0.0).then(|| sum.over(count))
    }
}

/// The measured steps of a run, and notes on damage.
pub(crate) fn read(run: &RunRecord) -> (Splits, Vec<String>) {
    let (mut splits, notes) = of_file(&run.dir);
    if splits.is_empty() {
        for (step, row) in run.train.iter() {
            let part = |part: &str, side: &str| row.get(&format!("geometry/{part}_{side}"));
            let sides = SIDES.map(|side| {
                let parts = Parts {
                    own: *part("own", side)?,
                    partner: *part("partner", side)?,
                    others: *part("others", side)?,
                };
                Some(parts).filter(|parts| parts.is_finite())
            });
            if sides.iter().any(Option::is_some) {
                splits.insert(step, sides);
            }
        }
    }
    (splits, notes)
}

fn of_file(dir: &Path) -> (Splits, Vec<String>) {
    let (rows, notes) = jsonl::read::<Row>(dir, FILE);
    let mut splits = Splits::new();
    for row in rows {
        // A resumed run: what the abandoned one had written from here on no longer counts.
        splits.split_off(&row.step);
        let sides = SIDES.map(|side| row.side(side));
        if sides.iter().any(Option::is_some) {
            splits.insert(row.step, sides);
        }
    }
    (splits, notes)
}

/// Parts as sums and as lines over the steps; nothing without a measured step.
pub(crate) fn figures(splits: &Splits, command: Option<&String>) -> Vec<Figure> {
    if splits.is_empty() {
        return Vec::new();
    }
    vec![sums(splits, command), over_steps(splits, command)]
}

/// Sums over the measured steps.
fn sums(splits: &Splits, command: Option<&String>) -> Figure {
    let sum = |at: usize| {
        let mut sum = Parts::default();
        let steps = splits.values().filter_map(|sides| sides[at]);
        steps.for_each(|parts| sum.add(parts));
        let measured = splits.values().any(|sides| sides[at].is_some());
        measured.then_some(sum)
    };
    let both = [sum(0), sum(1)];
    let names = ["own gradient", "partner", "other pairs", "together"];
    let mut table = Table::with_header(&["from", "chosen", "rejected"]);
    for (row, name) in names.into_iter().enumerate() {
        let cell =
            |side: Option<Parts>| side.map_or(Cell::Empty, |sum| Cell::Number(sum.each()[row]));
        table.push(&[Cell::Text(name.into()), cell(both[0]), cell(both[1])]);
    }
    let roles = [Role::Chosen, Role::Rejected];
    let series = SIDES.into_iter().zip(roles).zip(both);
    let series = series.filter(|(_, sum)| sum.is_some());
    let series = series.map(|((side, role), _)| Series {
        rows: BTreeMap::new(),
        ..Series::new(side, role, ("", ""), "from", side)
    });
    let panel = Panel {
        kind: Kind::Bars,
        x_label: "predicted change of the log-prob, nats".into(),
        series: series.collect(),
        ..Panel::over_steps(
            "Sum over the measured steps",
            "nats for a mean pair; right of zero: up",
        )
    };
    let steps = splits.len();
    let words = SIDES.into_iter().zip(both);
    let words = words.filter_map(|(side, sum)| Some(sentence(side, sum?, steps)));
    Figure {
        id: "gram-sums".into(),
        title: "Whose gradients moved the log-probs".into(),
        caption: format!(
            "To first order a step changes a log-prob through its own gradient, through that of its partner (the other \
             completion of the pair), and through those of the batch's other pairs. These are plain gradient descent's; \
             another optimizer takes other steps, so sizes and even signs may differ from what was realised. {}",
            words.collect::<Vec<_>>().join(" ")
        ),
        command: command.cloned(),
        panels: vec![panel],
        csv: table.into_csv(),
    }
}

/// What the sums say of one side.
fn sentence(side: &str, sum: Parts, steps: usize) -> String {
    let total = sum.total();
    let opening = format!(
        "{}: {} nats over {steps} measured step{}, {} of it by its own gradient, {} by its partner and {} by other pairs.",
        capitalised(side),
        signed(total),
        if steps == 1 { "" } else { "s" },
        signed(sum.own),
        signed(sum.partner),
        signed(sum.others)
    );
    let named = [
        ("its own gradient", sum.own),
        ("its partner", sum.partner),
        ("other pairs", sum.others),
    ];
    let along = named.iter().filter(|(_, part)| part * total > 0.0);
    let force: f64 = along.clone().map(|(_, part)| part.abs()).sum();
    // The largest first; a part below a hundredth is not worth a word.
    let mut shares: Vec<_> = along
        .map(|(name, part)| (*name, part.abs() / force))
        .filter(|(_, share)| *share >= 0.005)
        .collect();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    let shares: Vec<String> = shares
        .iter()
        .enumerate()
        .map(|(at, (name, share))| {
            let came = if at == 0 { " came" } else { "" };
            format!("{}{came} from {name}", percent(*share))
        })
        .collect();
    if shares.is_empty() {
        return opening;
    }
    let direction = if total < 0.0 {
        "pulled it down"
    } else {
        "pushed it up"
    };
    format!("{opening} Of what {direction}, {}.", joined(&shares))
}

fn joined(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// A panel for each side, a line for each part.
fn over_steps(splits: &Splits, command: Option<&String>) -> Figure {
    let every = splits.len().div_ceil(MAX_ROWS / 2).max(1);
    let last = splits.len() - 1;
    let mut table = Table::with_header(&["side", "step", "own", "partner", "others", "total"]);
    for (at, side) in SIDES.into_iter().enumerate() {
        let steps = splits.iter().enumerate();
        // The last step is where the run ended: always shown.
        let shown = steps.filter(|(index, _)| index % every == 0 || *index == last);
        for (step, parts) in shown.filter_map(|(_, (step, sides))| Some((*step, sides[at]?))) {
            let numbers = std::iter::once(step as f64).chain(parts.each());
            let cells = numbers.map(Cell::Number);
            let cells: Vec<Cell> = std::iter::once(Cell::Text(side.into()))
                .chain(cells)
                .collect();
            table.push(&cells);
        }
    }
    let smooth = window(splits.len().min(MAX_ROWS / 2));
    let panels = SIDES.into_iter().enumerate();
    let panels = panels.filter(|(at, _)| splits.values().any(|sides| sides[*at].is_some()));
    let panels = panels.map(|(at, side)| {
        // A line has the colour of the completion whose gradient acts.
        let (own, partner) = if at == 0 {
            (Role::Chosen, Role::Rejected)
        } else {
            (Role::Rejected, Role::Chosen)
        };
        let line = |name: &str, role: Role, key: &str| {
            Series::new(name, role, ("side", side), "step", key).smoothed(smooth)
        };
        Panel {
            guide: true,
            series: vec![
                line("own gradient", own, "own"),
                line(&format!("partner ({})", SIDES[1 - at]), partner, "partner"),
                line("other pairs", Role::Margin, "others"),
                line("together", Role::Plain, "total").dashed(),
            ],
            ..Panel::over_steps(&capitalised(side), "predicted change in one step, nats")
        }
    });
    let mut drawn = String::new();
    if every > 1 {
        drawn += &format!(" One in {every} measured steps is drawn.");
    }
    if smooth > 1 {
        drawn += &format!(
            " Strong lines are moving means over {smooth} rows, faint ones the recorded values."
        );
    }
    Figure {
        id: "gram-steps".into(),
        title: "Whose gradients, step by step".into(),
        caption: format!(
            "The same parts for each measured step: means over its pairs, for plain gradient descent at the step's \
             learning rate and clipping. Colours name the completion whose gradient acts; the dashed line is the sum. \
             Where the partner's line mirrors a completion's own, the pair works against itself.{drawn}"
        ),
        command: command.cloned(),
        panels: panels.collect(),
        csv: table.into_csv(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pairs; the second one's chosen response could not be computed.
    const LINE: &str = r#"{"step":STEP,"order":["0/chosen","0/rejected","1/chosen","1/rejected"],"matrix":[[1,NaN]],
        "coefficients":[1],"split":[{"response":"0/chosen","own":1,"partner":-3,"others":0.5,"total":-1.5},
        {"response":"0/rejected","own":-4,"partner":1,"others":0,"total":-3},
        {"response":"1/chosen","own":null,"partner":1,"others":0,"total":null},
        {"response":"1/rejected","own":-2,"partner":3,"others":1,"total":2}]}"#;

    fn splits(steps: &[u64]) -> Splits {
        let dir = tempfile::tempdir().unwrap();
        let line = LINE.replace('\n', "");
        let lines: String = steps
            .iter()
            .map(|step| line.replace("STEP", &step.to_string()) + "\n")
            .collect();
        std::fs::write(dir.path().join(FILE), lines).unwrap();
        let (splits, notes) = of_file(dir.path());
        assert!(notes.is_empty(), "{notes:?}");
        splits
    }

    #[test]
    fn a_step_is_the_mean_over_its_pairs() {
        let splits = splits(&[10]);
        let parts = |own, partner, others| {
            Some(Parts {
                own,
                partner,
                others,
            })
        };
        assert_eq!(
            splits[&10],
            [parts(1.0, -3.0, 0.5), parts(-3.0, 2.0, 0.5)],
            "what is not finite is left out"
        );
    }

    #[test]
    fn a_resumed_run_replaces_what_the_abandoned_one_wrote() {
        let steps: Vec<u64> = splits(&[10, 20, 30, 20]).into_keys().collect();
        assert_eq!(steps, [10, 20]);
    }

    #[test]
    fn sums_are_told_in_words_and_numbers() {
        let figures = figures(&splits(&[10, 20]), None);
        let [sums, steps] = &figures[..] else {
            panic!("two figures")
        };
        assert_eq!(
            sums.csv,
            "from,chosen,rejected\nown gradient,2,-6\npartner,-6,4\nother pairs,1,1\ntogether,-3,-1\n"
        );
        // Chosen: down by 6 from its partner alone. Rejected: down by 6 from its own gradient alone.
        for words in [
            "Chosen: −3.000 nats over 2 measured steps, +2.000 of it by its own gradient, −6.000 by its partner",
            "Of what pulled it down, 100 % came from its partner.",
            "Of what pulled it down, 100 % came from its own gradient.",
        ] {
            assert!(sums.caption.contains(words), "{}", sums.caption);
        }
        assert_eq!(steps.csv.lines().nth(1).unwrap(), "chosen,10,1,-3,0.5,-1.5");
        assert_eq!(steps.panels.len(), 2);
    }

    #[test]
    fn a_change_of_several_origins_names_them_by_size() {
        let sum = Parts {
            own: 0.25,
            partner: -1.0,
            others: 1.75,
        };
        assert!(
            sentence("chosen", sum, 1).ends_with(
                "over 1 measured step, +0.2500 of it by its own gradient, −1.000 by its partner and +1.750 by other \
                 pairs. Of what pushed it up, 88 % came from other pairs and 12 % from its own gradient."
            ),
            "{}",
            sentence("chosen", sum, 1)
        );
    }
}
