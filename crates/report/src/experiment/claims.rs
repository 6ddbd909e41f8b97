//! The table of claims: statement → source → what was measured → what follows.

use super::estimate::{bracketed, digits};
use super::results::{Claim, Finding};
use crate::page::{escape, push};

impl Finding {
    /// All of them in the order of counting.
    pub(crate) const ALL: [Self; 3] = [Self::Holds, Self::DoesNot, Self::Unclear];

    /// In words.
    pub(crate) fn words(self) -> &'static str {
        ["holds", "does not", "unclear"][self as usize]
    }

    /// Sign that tells it without colour, and class of the style sheet.
    fn sign(self) -> (&'static str, &'static str) {
        [("✓", "holds"), ("✗", "fails"), ("?", "unclear")][self as usize]
    }

    /// How many claims it is said of.
    pub(crate) fn count(self, claims: &[Claim]) -> usize {
        let found = claims.iter().filter(|claim| claim.verdict == self);
        found.count()
    }
}

impl Claim {
    /// Estimate and interval in plain ASCII digits.
    pub(crate) fn numbers(&self) -> String {
        let measured = self.measured.map_or("not measured".into(), digits);
        let interval = self.interval.and_then(|[lo, hi]| lo.zip(hi));
        match interval {
            Some(interval) => format!("{measured} {}", bracketed(interval)),
            None => measured,
        }
    }
}

/// How many claims hold, do not, and are unclear, as a sentence.
pub(crate) fn counted(claims: &[Claim]) -> String {
    let [holds, fails, unclear] = Finding::ALL.map(|finding| finding.count(claims));
    let of = claims.len();
    let (claims, hold) = match (of, holds) {
        (1, 1) => ("claim", "holds"),
        (1, _) => ("claim", "hold"),
        (_, 1) => ("claims", "holds"),
        _ => ("claims", "hold"),
    };
    let does = if fails == 1 { "does not" } else { "do not" };
    let is = if unclear == 1 { "is" } else { "are" };
    format!("{holds} of {of} {claims} {hold}, {fails} {does}, {unclear} {is} unclear.")
}

/// The table; empty without claims. Roles are written out, since narrow screens show the rows as blocks.
pub(crate) fn table(claims: &[Claim]) -> String {
    if claims.is_empty() {
        return String::new();
    }
    let mut html = String::from(
        "<section class=\"sheet\" id=\"claims\"><h2>Claims</h2>\n<p class=\"lead\">A claim holds if the whole 95 % interval lies \
         where the claim puts it, does not if the whole interval lies elsewhere, and is unclear otherwise.</p>\n<div \
         class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Claims\"><table class=\"claims\" role=\"table\"><thead \
         role=\"rowgroup\"><tr role=\"row\">",
    );
    for head in ["claim", "source", "measured", "what follows"] {
        push(
            &mut html,
            format_args!("<th scope=\"col\" role=\"columnheader\">{head}</th>"),
        );
    }
    html += "</tr></thead><tbody role=\"rowgroup\">\n";
    claims.iter().for_each(|claim| html += &row(claim));
    html + "</tbody></table></div></section>\n"
}

fn row(claim: &Claim) -> String {
    let (sign, class) = claim.verdict.sign();
    let over = match claim.interval {
        Some(_) if !claim.over.is_empty() => format!("95 % interval over {}", claim.over),
        _ => claim.over.clone(),
    };
    let expected = match claim.expected.as_str() {
        "" => String::new(),
        expected => format!("expected {expected}"),
    };
    let details = [&claim.quantity, &expected, &over].map(String::as_str);
    let details = details.into_iter().filter(|part| !part.is_empty());
    let details = details.collect::<Vec<_>>().join("; ");
    format!(
        "<tr role=\"row\"><th scope=\"row\" role=\"rowheader\">{}</th><td role=\"cell\">{}</td><td role=\"cell\"><b>{}</b><div \
         class=\"detail\">{}</div></td><td role=\"cell\"><span class=\"finding {class}\"><span aria-hidden=\"true\">{sign}</span> \
         {}</span></td></tr>\n",
        escape(&claim.claim),
        escape(&claim.source),
        escape(&claim.numbers().replace('-', "\u{2212}")),
        escape(&details),
        claim.verdict.words()
    )
}
