//! The figures of one run: seven of every preference run, and those that only some record.
//!
//! They follow the questions a reader has, in order: what happened to chosen and rejected (the paper's Figures 1 to
//! 3, arXiv 2410.13828), did training go well, and what the gradients say about it. A figure whose columns were not
//! logged is left out; that geometry is missing is said in the page's notes. Figures from files beside
//! `metrics.jsonl` are made in `gram_split.rs` and `predictions.rs`.

use crate::figure::{Figure, Kind, MAX_ROWS, Panel, Role, Series, Table, window};
use crate::gram_split::{self, Splits};
use crate::predictions::{self, Predictions};
use crate::record::RunRecord;
use crate::verdict::{Basis, agreement, percent};

const TRAIN: (&str, &str) = ("split", "train");
const EVAL: (&str, &str) = ("split", "eval");

/// The figures, and the largest k for which only every k-th row is shown.
pub(crate) fn figures(
    run: &RunRecord,
    splits: &Splits,
    predictions: &Predictions,
) -> (Vec<Figure>, usize) {
    let mut maker = Maker {
        run,
        command: run.command(),
        thinned: 1,
        figures: Vec::new(),
    };
    maker.log_probs();
    maker.change();
    let command = maker.command.clone();
    let attribution = run.attribution.as_ref();
    maker
        .figures
        .extend(attribution.map(|found| found.figure(command.as_ref())));
    maker.learning();
    maker.divergence();
    maker.mask();
    maker.optimizer();
    maker.geometry();
    maker.cases();
    let of_the_batch = gram_split::figures(splits, maker.command.as_ref());
    maker.figures.extend(of_the_batch);
    maker.prediction();
    maker.figures.extend(predictions::figure(predictions, run));
    (maker.figures, maker.thinned)
}

struct Maker<'a> {
    run: &'a RunRecord,
    command: Option<String>,
    thinned: usize,
    figures: Vec<Figure>,
}

impl Maker<'_> {
    /// Training and held-out series of one column; dashed ones are held out.
    fn both(&self, panel: &mut Panel, name: &str, role: Role, key: &str) {
        if self.run.train.has(key) {
            let label = if self.run.eval.has(key) {
                format!("{name}, training")
            } else {
                name.to_string()
            };
            panel
                .series
                .push(Series::new(&label, role, TRAIN, "step", key).smoothed(self.window(key)));
        }
        if self.run.eval.has(key) {
            panel
                .series
                .push(Series::new(&format!("{name}, held-out"), role, EVAL, "step", key).dashed());
        }
    }

    /// An odd window of about a twentieth of the rows shown, 0 for few rows.
    fn window(&self, key: &str) -> usize {
        // Two sides of one panel are smoothed alike, also where one has fewer rows.
        let sides = match key.rsplit_once('/') {
            Some((quantity, "chosen" | "rejected")) => {
                ["chosen", "rejected"].map(|side| format!("{quantity}/{side}"))
            }
            _ => [key.to_string(), key.to_string()],
        };
        let rows = sides.map(|key| self.run.train.finite(&key).len());
        window(rows[0].max(rows[1]).min(MAX_ROWS))
    }

    /// Adds the figure unless all its panels are empty.
    fn add(&mut self, id: &str, title: &str, caption: &str, keys: &[&str], panels: Vec<Panel>) {
        let panels: Vec<Panel> = panels
            .into_iter()
            .filter(|panel| !panel.series.is_empty())
            .collect();
        if panels.is_empty() {
            return;
        }
        let mut table = Table::over_steps(&["split"], keys);
        let train = table.push_rows(&["train"], &self.run.train, keys, MAX_ROWS);
        let eval = table.push_rows(&["eval"], &self.run.eval, keys, MAX_ROWS);
        self.thinned = self.thinned.max(train).max(eval);
        let smoothed = panels
            .iter()
            .flat_map(|panel| &panel.series)
            .map(|series| series.smooth)
            .max()
            .unwrap_or(0);
        let mut caption = caption.to_string();
        if smoothed > 1 {
            caption += &format!(
                " Strong lines are moving means over {smoothed} rows, faint ones the logged values."
            );
        }
        self.figures.push(Figure {
            id: id.into(),
            title: title.into(),
            caption,
            command: self.command.clone(),
            panels,
            csv: table.into_csv(),
        });
    }

    fn log_probs(&mut self) {
        let mut logps = Panel::over_steps("Chosen and rejected", "log-prob of a completion, nats");
        self.both(&mut logps, "chosen", Role::Chosen, "logps/chosen");
        self.both(&mut logps, "rejected", Role::Rejected, "logps/rejected");
        let rewards = self.run.train.has("rewards/margins") || self.run.eval.has("rewards/margins");
        let (key, unit) = if rewards {
            ("rewards/margins", "reward margin")
        } else {
            ("logps/difference", "chosen − rejected, nats")
        };
        let mut margin = Panel::over_steps("Margin", unit);
        margin.guide = true;
        // Log-probs of rows without partners belong to different prompts: their difference means nothing.
        if rewards || !self.run.unpaired() {
            self.both(&mut margin, "margin", Role::Margin, key);
        }
        let caption = if margin.series.is_empty() {
            "Mean log-prob of a whole completion."
        } else {
            "Mean log-prob of a whole completion, with the margin beside it. The margin can grow while both lines on the \
             left go down: then the run lowers rejected at chosen's expense."
        };
        let keys = ["logps/chosen", "logps/rejected", key];
        self.add(
            "log-probs",
            "Log-probs of chosen and rejected",
            caption,
            &keys,
            vec![logps, margin],
        );
    }

    fn change(&mut self) {
        // Only of the same pairs: batches of ever other pairs have no change.
        let basis = Basis::of(self.run);
        let (split, since) = (EVAL, "nats since the first evaluation");
        let mut change = Panel::over_steps(
            "Change of the log-prob",
            &format!("{since}, {}", basis.label(self.run)),
        );
        change.guide = true;
        for (name, role) in [("chosen", Role::Chosen), ("rejected", Role::Rejected)] {
            let key = format!("change/{name}");
            if basis == Basis::HeldOut && self.run.eval.has(&key) {
                let series = Series::new(name, role, split, "step", &key);
                change.series.push(series);
            }
        }
        let mut rewards = Panel::over_steps("Implicit reward", "relative to the reference");
        rewards.guide = true;
        self.both(&mut rewards, "chosen", Role::Chosen, "rewards/chosen");
        self.both(&mut rewards, "rejected", Role::Rejected, "rewards/rejected");
        let unit = if self.run.unpaired() { "row" } else { "pair" };
        let caption = format!(
            "Below the zero line a completion has become less likely than it was. Held-out {unit}s are the same at every \
             evaluation; training batches differ from step to step, and the reward on the right, taken {unit} by {unit} \
             against the reference, shows their movement with less noise."
        );
        let keys = [
            "change/chosen",
            "change/rejected",
            "rewards/chosen",
            "rewards/rejected",
        ];
        self.add(
            "change",
            "Change since the start",
            &caption,
            &keys,
            vec![change, rewards],
        );
    }

    fn learning(&mut self) {
        let mut loss = Panel::over_steps("Loss", "objective");
        self.both(&mut loss, "loss", Role::Plain, "loss");
        let mut accuracy =
            Panel::over_steps("Reward accuracy", "share of pairs with a positive margin");
        accuracy.percent = true;
        self.both(&mut accuracy, "accuracy", Role::Plain, "rewards/accuracies");
        let (title, caption) = if accuracy.series.is_empty() {
            ("Loss", "The objective's own loss.")
        } else {
            (
                "Loss and reward accuracy",
                "The objective's own loss, and how often chosen has the larger implicit reward. Both can look well while \
                 chosen becomes less likely: they only see the margin.",
            )
        };
        self.add(
            "learning",
            title,
            caption,
            &["loss", "rewards/accuracies"],
            vec![loss, accuracy],
        );
    }

    fn divergence(&mut self) {
        let mut kl = Panel::over_steps("KL estimate", "nats, never below zero");
        kl.guide = true;
        self.both(&mut kl, "KL estimate", Role::Plain, "kl");
        let caption = "How far the policy has moved from the reference, estimated as KTO does: the mean log-ratio of \
                       completions under prompts that they do not belong to, cut off at zero. It is the point from which \
                       rewards of good and bad completions are judged.";
        self.add(
            "kl",
            "Distance from the reference",
            caption,
            &["kl"],
            vec![kl],
        );
    }

    fn mask(&mut self) {
        let mut open =
            Panel::over_steps("Open tokens", "share of tokens with s at or above one half");
        open.percent = true;
        self.both(&mut open, "open", Role::Plain, "mask/open");
        let mut mean = Panel::over_steps("Mean share", "mean of s over the tokens");
        mean.percent = true;
        self.both(&mut mean, "mean share", Role::Plain, "mask/mean");
        let caption = "Under a learnt token mask each token's log-ratio is multiplied by its share s from 0 to 1. The fewer \
                       tokens stay open, the sparser the comparison that the loss sees.";
        let keys = ["mask/open", "mask/mean"];
        self.add(
            "mask",
            "Tokens under the mask",
            caption,
            &keys,
            vec![open, mean],
        );
    }

    fn optimizer(&mut self) {
        let mut rate = Panel::over_steps("Learning rate", "per step");
        if self.run.train.has("learning_rate") {
            rate.series.push(Series::new(
                "learning rate",
                Role::Plain,
                TRAIN,
                "step",
                "learning_rate",
            ));
        }
        let mut norm = Panel::over_steps("Gradient norm", "before clipping");
        if self.run.train.has("grad_norm") {
            let series = Series::new("gradient norm", Role::Plain, TRAIN, "step", "grad_norm");
            norm.series.push(series.smoothed(self.window("grad_norm")));
        }
        let caption = "The schedule as it was applied, and the norm of the whole loss gradient of each step. A jump of the \
                       norm names the step to look at.";
        self.add(
            "optimizer",
            "Learning rate and gradient norm",
            caption,
            &["learning_rate", "grad_norm"],
            vec![rate, norm],
        );
    }

    fn geometry(&mut self) {
        let mut cosine = Panel::over_steps("Cosine", "between chosen and rejected gradient");
        cosine.guide = true;
        let mut size = Panel::over_steps("Norms and inner product", "squared norms and ⟨g_w, g_l⟩");
        size.guide = true;
        let put = |panel: &mut Panel, name: &str, role: Role, key: &str| {
            if self.run.train.has(key) {
                panel
                    .series
                    .push(Series::new(name, role, TRAIN, "step", key).smoothed(self.window(key)));
            }
        };
        put(&mut cosine, "cosine", Role::Plain, "geometry/cosine");
        put(&mut size, "‖g_w‖²", Role::Chosen, "geometry/norm_sq_chosen");
        put(
            &mut size,
            "‖g_l‖²",
            Role::Rejected,
            "geometry/norm_sq_rejected",
        );
        put(&mut size, "⟨g_w, g_l⟩", Role::Margin, "geometry/inner");
        let mut ratios = Panel::over_steps("Ratios", "⟨g_w, g_l⟩ over a squared norm");
        let (over_w, over_l) = ("⟨g_w, g_l⟩ / ‖g_w‖²", "⟨g_w, g_l⟩ / ‖g_l‖²");
        put(&mut ratios, over_w, Role::Chosen, "geometry/ratio_chosen");
        put(
            &mut ratios,
            over_l,
            Role::Rejected,
            "geometry/ratio_rejected",
        );
        if !ratios.series.is_empty() {
            let bound = Series::new(
                "DPO's condition: below 1",
                Role::Plain,
                TRAIN,
                "step",
                "geometry/bound",
            );
            ratios.series.push(bound.dashed());
        }
        let caption = "g_w and g_l are the gradients of the chosen and the rejected log-prob, averaged over the measured \
                       pairs. Under DPO chosen rises only while ⟨g_w, g_l⟩ stays below ‖g_w‖², and rejected falls only while \
                       it stays below ‖g_l‖²; the closer the cosine is to 1, the harder that is. The ratios say the same \
                       with 1 as the border; they and the squares are taken of the logged means.";
        let keys = [
            "geometry/cosine",
            "geometry/inner",
            "geometry/grad_norm_chosen",
            "geometry/grad_norm_rejected",
            "geometry/norm_sq_chosen",
            "geometry/norm_sq_rejected",
            "geometry/ratio_chosen",
            "geometry/ratio_rejected",
            "geometry/bound",
        ];
        self.add(
            "geometry",
            "Gradient entanglement",
            caption,
            &keys,
            vec![cosine, size, ratios],
        );
    }

    fn cases(&mut self) {
        let mut shares = Panel::over_steps("Cases", "share of the measured pairs");
        (shares.kind, shares.percent) = (Kind::Stack, true);
        let other = self
            .run
            .train
            .values("geometry/other")
            .iter()
            .any(|share| *share > 0.0);
        let cases = [
            (
                "ideal: chosen up, rejected down",
                Role::Ideal,
                "geometry/ideal",
            ),
            ("both fall", Role::BothFall, "geometry/both_fall"),
            ("both rise", Role::BothRise, "geometry/both_rise"),
            ("still or reversed", Role::Other, "geometry/other"),
        ];
        for (name, role, key) in cases.into_iter().take(if other { 4 } else { 3 }) {
            if self.run.train.has(key) {
                shares
                    .series
                    .push(Series::new(name, role, TRAIN, "step", key).smoothed(self.window(key)));
            }
        }
        let caption = "What one small gradient step on a pair alone would do to it, to first order (the paper's Table 1). \
                       The larger the band of “both fall”, the more pairs lose chosen together with rejected. Areas are moving \
                       means where many steps were logged.";
        let keys = [
            "geometry/ideal",
            "geometry/both_fall",
            "geometry/both_rise",
            "geometry/other",
        ];
        self.add("cases", "Cases of the pairs", caption, &keys, vec![shares]);
        if let Some(figure) = self
            .figures
            .last_mut()
            .filter(|figure| figure.id == "cases")
        {
            // An area has no faint line behind it: the general sentence on moving means would mislead.
            figure.caption = caption.to_string();
        }
    }

    fn prediction(&mut self) {
        let mut scatter = Panel::over_steps("Predicted against realised", "realised change, nats");
        (scatter.kind, scatter.guide) = (Kind::Scatter, true);
        scatter.x_label = "predicted change, nats".into();
        let (mut lines, mut words) = (Vec::new(), Vec::new());
        for (side, role) in [("chosen", Role::Chosen), ("rejected", Role::Rejected)] {
            let (predicted, realised) = (
                format!("geometry/predicted_{side}"),
                format!("geometry/realised_{side}"),
            );
            if !self.run.train.has(&predicted) || !self.run.train.has(&realised) {
                continue;
            }
            scatter
                .series
                .push(Series::new(side, role, TRAIN, &predicted, &realised));
            let mut panel = Panel::over_steps(
                &format!("{} over the steps", capitalised(side)),
                "change in one step, nats",
            );
            panel.guide = true;
            let line = |name, role, key: &str| {
                Series::new(name, role, TRAIN, "step", key).smoothed(self.window(key))
            };
            panel.series.push(line("realised", role, &realised));
            panel
                .series
                .push(line("predicted", Role::Plain, &predicted).dashed());
            let update = format!("geometry/update_{side}");
            if self.run.train.has(&update) {
                let update = line("first order of the update", Role::Margin, &update);
                panel.series.push(update.dashed());
            }
            lines.push(panel);
            words.extend(self.agreement_words(side, &predicted, &realised));
        }
        let mut caption = "Each point is a measured step: the change that the gradients predict to first order, and the change \
                           found by scoring the batch again. On the dashed line both agree; points in the upper left or lower \
                           right moved against the prediction."
            .to_string();
        if !words.is_empty() {
            caption += &format!(" {}.", words.join(". "));
        }
        let keys = ["chosen", "rejected"].map(|side| {
            let key = |kind: &str| format!("geometry/{kind}_{side}");
            [key("predicted"), key("update"), key("realised")]
        });
        // Only newer runs know the update's first order.
        let keys = keys.iter().flatten().map(String::as_str);
        let keys: Vec<&str> = keys
            .filter(|key| !key.contains("update") || self.run.train.has(key))
            .collect();
        let panels = std::iter::once(scatter).chain(lines).collect();
        self.add(
            "prediction",
            "Prediction against reality",
            &caption,
            &keys,
            panels,
        );
    }

    fn agreement_words(&self, side: &str, predicted: &str, realised: &str) -> Option<String> {
        let rows = self
            .run
            .train
            .iter()
            .filter_map(|(_, row)| Some((*row.get(predicted)?, *row.get(realised)?)));
        let points: Vec<_> = rows
            .filter(|(x, y)| x.is_finite() && y.is_finite())
            .collect();
        let (correlation, sign) = agreement(&points)?;
        let correlation = if correlation.is_finite() {
            format!("correlation {correlation:.2}").replace('-', "\u{2212}")
        } else {
            "no variation".into()
        };
        Some(format!(
            "{}: {correlation}, same sign in {} of {} steps",
            capitalised(side),
            percent(sign),
            points.len()
        ))
    }
}

/// The word with a capital first letter, as it begins a heading.
pub(crate) fn capitalised(word: &str) -> String {
    word.char_indices()
        .map(|(at, c)| if at == 0 { c.to_ascii_uppercase() } else { c })
        .collect()
}
