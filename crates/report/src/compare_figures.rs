//! The figures of a comparison of runs: where each ended, then a line per run in each panel.

use crate::compare::Comparison;
use crate::figure::{Cell, Figure, Kind, MAX_ROWS, Panel, Role, Series, Table, window};
use crate::record::RunRecord;
use crate::verdict::Basis;

impl Comparison {
    /// The figures, and the largest k for which only every k-th row is shown.
    pub(crate) fn figures(&self) -> (Vec<Figure>, usize) {
        let mut figures: Vec<Figure> = self.ends().into_iter().collect();
        let mut thinned = 1;
        let mut add =
            |id: &str, title: &str, caption: &str, panels: &[(&str, &str, &str, bool)]| {
                let (figure, every) = self.over_steps(id, title, caption, panels);
                thinned = thinned.max(every);
                figures.extend(figure);
            };
        add(
            "log-probs",
            "Log-probs",
            "Mean log-prob of a whole completion in each run, chosen on the left, rejected on the right.",
            &[
                ("Chosen", "nats", "logps/chosen", false),
                ("Rejected", "nats", "logps/rejected", false),
            ],
        );
        add(
            "change",
            "Change since the start",
            "The same lines moved to a common start: below zero the completion has become less likely. The better \
             objective or remedy keeps the left line up while the right one goes down.",
            &[
                ("Chosen", "nats since the start", "change/chosen", false),
                ("Rejected", "nats since the start", "change/rejected", false),
            ],
        );
        add(
            "margin",
            "Margin and accuracy",
            "What the objectives see: how far and how often chosen is ahead in implicit reward. Rewards scale with β and \
             with the objective's own definition, so compare margins between like runs only.",
            &[
                ("Reward margin", "reward", "rewards/margins", false),
                (
                    "Reward accuracy",
                    "share of pairs",
                    "rewards/accuracies",
                    true,
                ),
            ],
        );
        add(
            "loss",
            "Loss",
            "Each run's own objective. Different objectives have different scales; compare the shape.",
            &[("Loss", "objective", "loss", false)],
        );
        let geometry = &[
            (
                "Cosine",
                "between chosen and rejected gradient",
                "geometry/cosine",
                false,
            ),
            (
                "Both fall",
                "share of the measured pairs",
                "geometry/both_fall",
                true,
            ),
        ];
        add(
            "geometry",
            "Gradient entanglement",
            "How much the chosen and the rejected gradient of a training pair point the same way, and how many pairs would \
             fall together by one step of their own.",
            geometry,
        );
        add(
            "mask",
            "Tokens under the mask",
            "Share of tokens that a learnt mask leaves open (s at or above one half), and the mean of s.",
            &[
                ("Open tokens", "share of tokens", "mask/open", true),
                ("Mean share", "mean of s", "mask/mean", true),
            ],
        );
        add(
            "kl",
            "Distance from the reference",
            "KTO's estimate from completions under prompts that they do not belong to.",
            &[("KL estimate", "nats", "kl", false)],
        );
        (figures, thinned)
    }

    /// Bars of the total change of chosen and rejected; `None` when no run logged either.
    fn ends(&self) -> Option<Figure> {
        let mut table = Table::with_header(&["run", "split", "chosen", "rejected"]);
        for (run, name) in self.runs.iter().zip(&self.names) {
            let change = |key: &str| {
                self.basis
                    .trend(run, key)
                    .map_or(Cell::Empty, |trend| Cell::Number(trend.change()))
            };
            let split = Cell::Text(self.split().to_string());
            table.push(&[
                Cell::Text(name.clone()),
                split,
                change("logps/chosen"),
                change("logps/rejected"),
            ]);
        }
        let split = ("split", self.split());
        let sides = [("chosen", Role::Chosen), ("rejected", Role::Rejected)];
        let moved = |side: &str| {
            let key = format!("logps/{side}");
            self.runs
                .iter()
                .any(|run| self.basis.trend(run, &key).is_some())
        };
        let series: Vec<Series> = sides
            .into_iter()
            .filter(|(side, _)| moved(side))
            .map(|(side, role)| Series::new(side, role, split, "run", side))
            .collect();
        let panel = Panel {
            kind: Kind::Bars,
            x_label: "change of the log-prob, nats".into(),
            series,
            ..Panel::over_steps(
                "Change of the log-prob from start to end",
                "nats; right of zero: more likely than before",
            )
        };
        debug_assert_eq!(table.len(), self.runs.len(), "a row for each run");
        (!panel.series.is_empty()).then(|| Figure {
            id: "ends".into(),
            title: "Where each run ended".into(),
            caption: "The ideal is a blue bar to the right and an orange one to the left. Two bars on the same side mean that chosen and rejected went the same way, which is what entangled gradients do."
                .into(),
            command: Some(self.command.clone()),
            panels: vec![panel],
            csv: table.into_csv(),
        })
    }

    /// A line per run in each panel: (title, unit, column, in per cent). What no evaluation logged, as geometry, is
    /// taken from training.
    fn over_steps(
        &self,
        id: &str,
        title: &str,
        caption: &str,
        panels: &[(&str, &str, &str, bool)],
    ) -> (Option<Figure>, usize) {
        let keys: Vec<&str> = panels.iter().map(|panel| panel.2).collect();
        let logged = |run: &RunRecord| keys.iter().any(|key| self.basis.rows(run).has(key));
        let training_only = !self.runs.iter().any(logged);
        let basis = if training_only {
            Basis::Training
        } else {
            self.basis
        };
        let split = if basis == Basis::HeldOut {
            "eval"
        } else {
            "train"
        };
        let mut table = Table::over_steps(&["run", "split"], &keys);
        let limit = (MAX_ROWS / self.runs.len()).max(50);
        let pushed = self
            .runs
            .iter()
            .zip(&self.names)
            .map(|(run, name)| table.push_rows(&[name, split], basis.rows(run), &keys, limit));
        let every = pushed.max().unwrap_or(1);
        let panels: Vec<Panel> = panels
            .iter()
            .map(|&(title, unit, key, percent)| {
                let with = self
                    .runs
                    .iter()
                    .enumerate()
                    .filter(|(_, run)| basis.rows(run).has(key));
                let series = with.map(|(index, run)| {
                    let rows = basis.rows(run).finite(key).len().min(limit);
                    let smooth = if basis == Basis::HeldOut {
                        0
                    } else {
                        window(rows)
                    };
                    Series::new(
                        &self.names[index],
                        Role::Run(index),
                        ("run", &self.names[index]),
                        "step",
                        key,
                    )
                    .smoothed(smooth)
                });
                let guide = !key.starts_with("logps/") && key != "loss";
                Panel {
                    series: series.collect(),
                    percent,
                    guide,
                    ..Panel::over_steps(title, unit)
                }
            })
            .filter(|panel| !panel.series.is_empty())
            .collect();
        let figure = (!panels.is_empty()).then(|| Figure {
            id: id.into(),
            title: title.into(),
            caption: caption.into(),
            command: Some(self.command.clone()),
            panels,
            csv: table.into_csv(),
        });
        (figure, every)
    }
}
