//! The page's tables: statements, and what happens where an assumption fails.

use super::record::{Agreement, Relaxed, Statement, Theory};
use super::terminal::brief;
use crate::page::{escape, power_of_ten, push};
use crate::verdict::percent;

/// `1.8×10⁻¹²`, `10⁻²`.
pub(super) fn power(value: Option<f64>) -> String {
    let text = brief(value);
    match text.split_once('e') {
        Some(("1.0", power)) => power_of_ten(power).replace('×', ""),
        Some((digits, power)) => format!("{digits}{}", power_of_ten(power)),
        None => text,
    }
}

/// What the formulas' letters mean.
const SYMBOLS: &str = "<p class=\"lead\">j and k are the differing chosen and rejected token, s the prediction there; M of V tokens \
                       share it evenly in Theorem 1 and Corollary 2. Corollary 2: K is the last token, P = Σ_{i&lt;K} (e_{y_i} − \
                       s_i) h_iᵀ, X_w = ⟨P, (e_j − s_K) h_Kᵀ⟩, X_l likewise with k. Theorem 3: m is the differing place, s_w and \
                       s_l predict the same token y behind it. c = σ(−βh) is DPO’s coefficient.</p>\n";

/// The table of statements.
pub(super) fn statements(of: &Theory) -> String {
    let mut html = String::from(
        "<section class=\"sheet\" id=\"statements\"><h2>Statements</h2>\n<p class=\"lead\">The closed form against what the engine \
         computes through the code that training uses, f64 and f32, at the value that agrees least; and against real steps of \
         gradient descent on the DPO loss, where the error must shrink with the step.</p>\n<div class=\"scroll\" tabindex=\"0\" \
         role=\"region\" aria-label=\"Statements\"><table class=\"judged\"><thead><tr><th scope=\"col\">statement</th><th \
         scope=\"col\">values</th><th scope=\"col\" class=\"text\">largest error, f64</th><th scope=\"col\" class=\"text\">largest error, f32</th><th \
         scope=\"col\">sign, to first order</th><th scope=\"col\">real steps: error, median</th><th scope=\"col\"></th></tr></thead>\
         <tbody>\n",
    );
    of.statements.iter().for_each(|s| html += &row(s));
    html += "</tbody></table></div>\n";
    html += SYMBOLS;
    html += &tolerances(of);
    html + "</section>\n"
}

fn row(s: &Statement) -> String {
    let (class, word) = if s.holds {
        ("holds", "holds")
    } else {
        ("fails", "fails")
    };
    let sign = s
        .sign
        .as_ref()
        .map(|x| format!("{}: {} of {}", x.claim, x.held, x.of));
    let steps = match (s.steps.first(), s.steps.last()) {
        (Some(first), Some(last)) => format!(
            "{} → {}{}",
            power(first.median_error),
            power(last.median_error),
            s.step_order
                .map(|o| format!("<br><span class=\"detail\">order {o:.2}</span>"))
                .unwrap_or_default()
        ),
        _ => "–".into(),
    };
    let error = |a: &Agreement| {
        let worst = power(a.worst.error);
        format!(
            "<td class=\"text\">{worst}<br><span class=\"detail\">{}</span></td>",
            escape(&a.worst.instance)
        )
    };
    let source = match s.source.starts_with(&s.theorem) {
        true => s.source.clone(),
        false => format!("{}, {}", s.theorem, s.source),
    };
    format!(
        "<tr><th scope=\"row\" class=\"text\">{} = {}<br><span class=\"detail\">{}; errors relative to {}</span></th><td>{}</td>{}{}<td>{}</td><td>{steps}</td>\
         <td><span class=\"finding {class}\">{word}</span></td></tr>\n",
        escape(&s.quantity),
        escape(&s.predicted),
        escape(&source),
        escape(&s.error_relative_to),
        s.values,
        error(&s.f64),
        error(&s.f32),
        escape(&sign.unwrap_or_else(|| "–".into())),
    )
}

/// How large errors may be.
fn tolerances(of: &Theory) -> String {
    let Some(first) = of.statements.first() else {
        return String::new();
    };
    let allowed = |name: &str, a: &Agreement| {
        format!("{} in {name} ({})", power(Some(a.tolerance)), a.reason)
    };
    format!(
        "<p class=\"lead\">Largest errors allowed: {}; {}. {}</p>\n",
        escape(&allowed("f64", &first.f64)),
        escape(&allowed("f32", &first.f32)),
        first_step_sizes(of)
    )
}

fn first_step_sizes(of: &Theory) -> String {
    let steps = of
        .statements
        .iter()
        .find(|s| !s.steps.is_empty())
        .map(|s| &s.steps);
    let Some(steps) = steps else {
        return String::new();
    };
    let sizes: Vec<String> = steps.iter().map(|s| power(Some(s.nats))).collect();
    format!(
        "A real step moves the margin by {} nats to first order; its error is relative to that.",
        sizes.join(", ")
    )
}

/// The table of relaxed assumptions.
pub(super) fn relaxed(of: &Theory) -> String {
    let mut html = String::from(
        "<p class=\"lead\">Each theorem without one of its assumptions, on random instances: for how many a claim is then \
         broken, to first order and after a real step of the smallest size.</p>\n<div class=\"scroll\" tabindex=\"0\" \
         role=\"region\" aria-label=\"Where an assumption fails\"><table class=\"judged\"><thead><tr><th scope=\"col\">setting</th>\
         <th scope=\"col\" class=\"text\">claim</th><th scope=\"col\">broken</th><th scope=\"col\">of</th><th scope=\"col\">share</th><th \
         scope=\"col\">broken after a real step</th></tr></thead><tbody>\n",
    );
    of.relaxed.iter().for_each(|r| html += &rows(r));
    html + "</tbody></table></div>\n"
}

fn rows(r: &Relaxed) -> String {
    let setting = match r.assumption.as_str() {
        "none" => "assumptions kept".to_string(),
        given_up => format!("without “{given_up}”"),
    };
    let closed = r.closed_form.as_ref().map(|form| {
        format!(
            "<br>closed form {}, largest error {}",
            escape(form),
            power(r.worst_error)
        )
    });
    let head = format!(
        "<th scope=\"rowgroup\" rowspan=\"{}\" class=\"text\">{}, {}<br><span class=\"detail\">{}; {} instances{}</span></th>",
        r.claims.len(),
        escape(&r.theorem),
        escape(&setting),
        escape(&r.instead),
        r.instances,
        closed.unwrap_or_default()
    );
    let mut html = String::new();
    for (i, c) in r.claims.iter().enumerate() {
        let realised = c.broken_realised.map_or("–".to_string(), |n| n.to_string());
        push(
            &mut html,
            format_args!(
                "<tr>{}<td class=\"text\">{}</td><td>{}</td><td>{}</td><td>{}</td><td>{realised}</td></tr>\n",
                if i == 0 { &*head } else { "" },
                escape(&c.claim),
                c.broken,
                c.of,
                percent(c.share())
            ),
        );
    }
    html
}
