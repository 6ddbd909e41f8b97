//! Rows of a diagnosis as its files hold them.
//!
//! Names of fields are those of `geometry.jsonl` and `proxies.jsonl`; the order of the rows is the data set's. Numbers are
//! written so that they read back exactly, so a summary is a function of the rows, whoever measured them.

use crate::measure::Hidden;
use crate::step::StepEffect;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use unbraid_objective::{Case, Gram};

/// A mapping that keeps its order, as JSON objects are written.
#[derive(Clone, Debug, PartialEq)]
pub struct Named<T>(pub Vec<(String, T)>);

impl<T> Named<T> {
    /// The value under a name.
    pub fn get(&self, name: &str) -> Option<&T> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Named(Vec::new())
    }
}

impl<T: Serialize> Serialize for Named<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Named<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Named(entries))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

/// One pair: its log-probs and the proxies that a forward pass gives, and the gradients' numbers unless only proxies were
/// asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairRow {
    /// The row of the data set, from 0.
    pub index: usize,
    /// a_w, nats.
    pub chosen_logps: f64,
    /// a_l, nats.
    pub rejected_logps: f64,
    /// r_w, nats; none without a reference.
    pub ref_chosen_logps: Option<f64>,
    /// r_l, nats.
    pub ref_rejected_logps: Option<f64>,
    /// L_w.
    pub chosen_len: usize,
    /// L_l.
    pub rejected_len: usize,
    /// The chosen completion's implicit reward under the configured objective.
    pub reward_chosen: f64,
    /// The rejected one's.
    pub reward_rejected: f64,
    /// Their difference.
    pub reward_margin: f64,
    /// What the gradients say.
    #[serde(flatten)]
    pub gradients: Option<Gradients>,
    /// CHES score.
    pub ches: f64,
    /// Its length-normalised form.
    pub ches_normalized: f64,
    /// Token edit distance over the longer length, 0..1.
    pub edit_distance: f64,
    /// Overlap of the two multisets of tokens, 0..1.
    pub shared_tokens: f64,
    /// Inner product of the head's own gradients.
    pub head_inner: f64,
    /// Their cosine.
    pub head_cosine: f64,
    /// What each objective would do to the pair.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub objectives: Named<Outcome>,
    /// What a real optimizer step did, where one was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepEffect>,
}

/// Inner products of a pair's two gradients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gradients {
    /// ‖g_w‖².
    pub grad_sq_chosen: f64,
    /// ‖g_l‖².
    pub grad_sq_rejected: f64,
    /// ⟨g_w,g_l⟩.
    pub grad_inner: f64,
    /// ⟨g_w,g_l⟩/(‖g_w‖‖g_l‖).
    pub grad_cosine: f64,
    /// The same three by parameter group.
    pub groups: Named<GroupRow>,
}

/// A parameter group's share of the inner products.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupRow {
    /// ‖g_w‖² in the group.
    pub grad_sq_chosen: f64,
    /// ‖g_l‖² in the group.
    pub grad_sq_rejected: f64,
    /// ⟨g_w,g_l⟩ in the group.
    pub grad_inner: f64,
}

impl GroupRow {
    /// As the theory has it.
    pub fn gram(&self) -> Gram {
        Gram {
            ww: self.grad_sq_chosen,
            ll: self.grad_sq_rejected,
            wl: self.grad_inner,
        }
    }
}

impl Gradients {
    /// Of a pair, with its groups by name.
    pub fn new(gram: Gram, names: &[String], groups: &[Gram]) -> Self {
        let row = |g: &Gram| GroupRow {
            grad_sq_chosen: g.ww,
            grad_sq_rejected: g.ll,
            grad_inner: g.wl,
        };
        let groups = names.iter().cloned().zip(groups.iter().map(row));
        Gradients {
            grad_sq_chosen: gram.ww,
            grad_sq_rejected: gram.ll,
            grad_inner: gram.wl,
            grad_cosine: gram.cosine(),
            groups: Named(groups.collect()),
        }
    }

    /// As the theory has it.
    pub fn gram(&self) -> Gram {
        Gram {
            ww: self.grad_sq_chosen,
            ll: self.grad_sq_rejected,
            wl: self.grad_inner,
        }
    }
}

/// What one objective would do to a pair, to first order and per unit of learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// ℓ of the pair alone.
    pub loss: f64,
    /// −∂ℓ/∂a_w, after the remedy where there is one.
    pub d_w: f64,
    /// +∂ℓ/∂a_l, likewise.
    pub d_l: f64,
    /// Table 1's case.
    #[serde(with = "case_by_name")]
    pub case: Case,
    /// Δa_w, nats per unit of learning rate.
    pub delta_chosen: f64,
    /// Δa_l.
    pub delta_rejected: f64,
}

impl Outcome {
    /// How much the pair is harmed: what chosen loses and rejected gains, nats per unit of learning rate.
    pub fn harm(&self) -> f64 {
        (-self.delta_chosen).max(0.0) + self.delta_rejected.max(0.0)
    }
}

mod case_by_name {
    use super::{Case, Deserialize, Deserializer, Serializer};
    use serde::de::Error;

    pub(super) fn serialize<S: Serializer>(case: &Case, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(case.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Case, D::Error> {
        let name = String::deserialize(d)?;
        let found = Case::ALL.into_iter().find(|case| case.as_str() == name);
        found.ok_or_else(|| D::Error::custom(format!("{name:?} is no case")))
    }
}

/// Names of a row's numbers, as files and options write them; the two ratios follow from the others.
pub const FIELDS: [&str; 21] = [
    "chosen_logps",
    "rejected_logps",
    "ref_chosen_logps",
    "ref_rejected_logps",
    "chosen_len",
    "rejected_len",
    "reward_chosen",
    "reward_rejected",
    "reward_margin",
    "grad_sq_chosen",
    "grad_sq_rejected",
    "grad_inner",
    "grad_cosine",
    "chosen_ratio",
    "rejected_ratio",
    "ches",
    "ches_normalized",
    "edit_distance",
    "shared_tokens",
    "head_inner",
    "head_cosine",
];

/// Of [`FIELDS`], those that need gradients.
pub const GRADIENT_FIELDS: [&str; 6] = [
    "grad_sq_chosen",
    "grad_sq_rejected",
    "grad_inner",
    "grad_cosine",
    "chosen_ratio",
    "rejected_ratio",
];

impl PairRow {
    /// The values of [`FIELDS`]; `None` where the row has no such number.
    pub fn values(&self) -> [Option<f64>; FIELDS.len()] {
        let gradients = self.gradients.as_ref();
        let gram = gradients.map(Gradients::gram);
        let of = |f: fn(&Gradients) -> f64| gradients.map(f);
        [
            Some(self.chosen_logps),
            Some(self.rejected_logps),
            self.ref_chosen_logps,
            self.ref_rejected_logps,
            Some(self.chosen_len as f64),
            Some(self.rejected_len as f64),
            Some(self.reward_chosen),
            Some(self.reward_rejected),
            Some(self.reward_margin),
            of(|g| g.grad_sq_chosen),
            of(|g| g.grad_sq_rejected),
            of(|g| g.grad_inner),
            of(|g| g.grad_cosine),
            gram.and_then(|g| g.chosen_ratio()),
            gram.and_then(|g| g.rejected_ratio()),
            Some(self.ches),
            Some(self.ches_normalized),
            Some(self.edit_distance),
            Some(self.shared_tokens),
            Some(self.head_inner),
            Some(self.head_cosine),
        ]
    }

    /// The number with one of the names in [`FIELDS`].
    pub fn value(&self, field: &str) -> Option<f64> {
        let at = FIELDS.iter().position(|name| *name == field)?;
        self.values()[at]
    }

    /// What an objective reads of the row; without a reference its log-probs are 0.
    pub fn logps(&self) -> unbraid_objective::PairLogps {
        unbraid_objective::PairLogps {
            chosen: self.chosen_logps,
            rejected: self.rejected_logps,
            ref_chosen: self.ref_chosen_logps.unwrap_or(0.0),
            ref_rejected: self.ref_rejected_logps.unwrap_or(0.0),
            chosen_len: self.chosen_len,
            rejected_len: self.rejected_len,
        }
    }

    /// The first of its numbers that is no finite number.
    pub fn not_finite(&self) -> Option<(&'static str, f64)> {
        let named = FIELDS.into_iter().zip(self.values());
        let mut named = named.filter_map(|(name, value)| Some((name, value?)));
        named.find(|(_, value)| !value.is_finite())
    }

    /// Puts in what the final hidden states say.
    pub fn set_hidden(&mut self, hidden: &Hidden) {
        self.ches = hidden.ches;
        self.ches_normalized = hidden.ches_normalized;
        self.head_inner = hidden.head.wl;
        self.head_cosine = hidden.head.cosine();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A row with Gram (4, 9, 5) and little else.
    pub(crate) fn row(index: usize) -> PairRow {
        let gram = Gram {
            ww: 4.0,
            ll: 9.0,
            wl: 5.0,
        };
        PairRow {
            index,
            chosen_logps: -1.5,
            rejected_logps: -2.5,
            ref_chosen_logps: Some(-1.5),
            ref_rejected_logps: None,
            chosen_len: 3,
            rejected_len: 4,
            reward_chosen: 0.0,
            reward_rejected: 0.1,
            reward_margin: -0.1,
            gradients: Some(Gradients::new(
                gram,
                &["b".into(), "a".into()],
                &[gram, gram],
            )),
            ches: 1.0,
            ches_normalized: 0.1,
            edit_distance: 0.5,
            shared_tokens: 0.25,
            head_inner: 2.0,
            head_cosine: 0.3,
            objectives: Named::default(),
            step: None,
        }
    }

    #[test]
    fn rows_read_back_exactly_and_groups_keep_their_order() {
        let mut full = row(7);
        full.chosen_logps = -0.1 - 0.2;
        full.objectives = Named(vec![(
            "sigmoid".into(),
            Outcome {
                loss: 0.7,
                d_w: 0.05,
                d_l: 0.05,
                case: Case::BothFall,
                delta_chosen: -0.05,
                delta_rejected: -0.2,
            },
        )]);
        let text = serde_json::to_string(&full).unwrap();
        assert!(text.contains(r#""case":"both_fall""#), "{text}");
        assert!(text.contains(r#""ref_rejected_logps":null"#), "{text}");
        assert!(text.find(r#""b":{"#) < text.find(r#""a":{"#), "{text}");
        let read: PairRow = serde_json::from_str(&text).unwrap();
        assert_eq!(read, full);
        let proxies = PairRow {
            gradients: None,
            ..row(8)
        };
        let text = serde_json::to_string(&proxies).unwrap();
        assert!(
            !text.contains("grad_") && !text.contains("objectives"),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<PairRow>(&text).unwrap(), proxies);
    }

    #[test]
    fn fields_have_their_values() {
        let row = row(0);
        assert_eq!(row.value("grad_cosine"), Some(5.0 / 6.0));
        assert_eq!(row.value("chosen_ratio"), Some(1.25));
        assert_eq!(row.value("ref_rejected_logps"), None);
        assert_eq!(row.value("head_cosine"), Some(0.3));
        assert_eq!(row.value("index"), None);
        let broken = PairRow {
            ches: f64::NAN,
            ..row
        };
        assert_eq!(broken.not_finite().map(|(name, _)| name), Some("ches"));
    }
}
