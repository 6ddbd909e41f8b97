//! The page around the figures: one HTML file with everything inside.
//!
//! Charting library: Apache ECharts 6.1.0, see `assets/README.md`. All text from records passes [`escape`]; the
//! figures' data is JSON in which `<` is written `\u003c`, so that no value can end the script element.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::to_string;

use crate::figure::Figure;

const STYLE: &str = include_str!("../assets/report.css");
const ECHARTS: &str = include_str!("../assets/echarts.min.js");
const CHARTS: &str = include_str!("../assets/charts.js");
const PAGE: &str = include_str!("../assets/page.js");
/// The table of pairs of a diagnosis.
pub(crate) const PAIRS: &str = include_str!("../assets/pairs.js");

/// Nothing is loaded: a value that slipped through as markup could not fetch anything either.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; \
                      base-uri 'none'; form-action 'none'";

/// A page before it is written. The fields that end in `_html` are markup, the others plain text.
pub(crate) struct Page {
    /// Heading and window title.
    pub(crate) title: String,
    /// Line above the heading: what kind of page this is.
    pub(crate) kicker: String,
    /// Line below the heading.
    pub(crate) facts: String,
    /// Start of the names of files saved from the page.
    pub(crate) stem: String,
    /// Verdict, key figures, notes.
    pub(crate) opening_html: String,
    /// The figures, in order.
    pub(crate) figures: Vec<Figure>,
    /// Words rather than figures, below them.
    pub(crate) sections: Vec<Section>,
    /// Settings and other sheets below everything else.
    pub(crate) sheets_html: String,
    /// What only some kinds of page have.
    pub(crate) extras: Extras,
}

/// Parts of a page that most do without.
#[derive(Default)]
pub(crate) struct Extras {
    /// Figures below the sections.
    pub(crate) later: Vec<Figure>,
    /// Figures, by their anchor, that show one panel at a time.
    pub(crate) tabs: BTreeSet<String>,
    /// Markup below the panels of a figure, by its anchor.
    pub(crate) below: BTreeMap<String, String>,
    /// Further scripts, run before those of the page.
    pub(crate) scripts: Vec<&'static str>,
}

/// A part of the page that is no figure.
pub(crate) struct Section {
    /// Anchor in the page.
    pub(crate) id: String,
    /// Heading; plain text.
    pub(crate) title: String,
    /// Markup below the heading.
    pub(crate) html: String,
}

impl Page {
    /// The whole file.
    pub(crate) fn render(&self) -> String {
        let title = escape(&self.title);
        let figures: Vec<&Figure> = self.figures.iter().chain(&self.extras.later).collect();
        let data = to_string(&figures)
            .expect("figures hold only text, numbers and lists")
            .replace('<', "\\u003c");
        let mut html = String::with_capacity(ECHARTS.len() + data.len() + 65_536);
        let mut put = |piece: &str| html.push_str(piece);
        put(
            "<!DOCTYPE html>\n<html lang=\"en\" data-theme=\"auto\">\n<head>\n<meta charset=\"utf-8\">\n",
        );
        put(&format!(
            "<meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n"
        ));
        put("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
        put(
            "<meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n",
        );
        put(&format!(
            "<title>{title} · Unbraid</title>\n<style>\n{STYLE}</style>\n</head>\n"
        ));
        put(&format!(
            "<body data-stem=\"{}\">\n<a class=\"skip\" href=\"#main\">To the content</a>\n",
            escape(&self.stem)
        ));
        put(&format!(
            "<header><div><p class=\"kicker\">{}</p>\n<h1>{title}</h1>\n",
            escape(&self.kicker)
        ));
        put(&format!(
            "<p class=\"facts\">{}</p></div>\n",
            escape(&self.facts)
        ));
        put(
            "<button type=\"button\" id=\"theme\" hidden>Theme: auto</button></header>\n<main id=\"main\">\n",
        );
        put(&self.opening_html);
        put(
            "<noscript><p class=\"notes\">The charts, their tables and downloads need JavaScript; everything else is \
             here.</p></noscript>\n",
        );
        put(&self.navigation());
        self.figures
            .iter()
            .for_each(|figure| put(&self.figure_html(figure)));
        self.sections.iter().for_each(|section| {
            put(&format!(
                "<section class=\"sheet\" id=\"{}\"><h2>{}</h2>\n{}</section>\n",
                section.id,
                escape(&section.title),
                section.html
            ));
        });
        self.extras
            .later
            .iter()
            .for_each(|figure| put(&self.figure_html(figure)));
        put(&self.sheets_html);
        put(&format!(
            "</main>\n<footer><p>Made by Unbraid {} from the run's records alone. Charts: Apache ECharts 6.1.0 \
             (Apache-2.0), inside this file; it loads nothing.</p></footer>\n<div id=\"live\" class=\"unseen\" \
             aria-live=\"polite\"></div>\n",
            env!("CARGO_PKG_VERSION")
        ));
        put(&format!(
            "<script type=\"application/json\" id=\"figures\">{data}</script>\n"
        ));
        let further = self.extras.scripts.iter().copied();
        for script in [ECHARTS, CHARTS].into_iter().chain(further).chain([PAGE]) {
            put("<script>\n");
            put(script);
            put("</script>\n");
        }
        put("</body>\n</html>\n");
        html
    }

    fn navigation(&self) -> String {
        let mut html = String::from("<nav aria-label=\"Contents\"><ol>");
        let figures = self
            .figures
            .iter()
            .map(|figure| (format!("fig-{}", figure.id), &figure.title));
        let sections = self
            .sections
            .iter()
            .map(|section| (section.id.clone(), &section.title));
        let later = self
            .extras
            .later
            .iter()
            .map(|figure| (format!("fig-{}", figure.id), &figure.title));
        for (anchor, title) in figures.chain(sections).chain(later) {
            push(
                &mut html,
                format_args!("<li><a href=\"#{anchor}\">{}</a></li>", escape(title)),
            );
        }
        html + "</ol></nav>\n"
    }

    fn figure_html(&self, figure: &Figure) -> String {
        let (id, title, caption) = (&figure.id, escape(&figure.title), escape(&figure.caption));
        let made = match &figure.command {
            Some(command) => format!("Made by <code>{}</code>", escape(command)),
            None => "The command that made it is not recorded in run.yaml.".to_string(),
        };
        let tabs = if self.extras.tabs.contains(id) {
            " data-tabs"
        } else {
            ""
        };
        let below = self.extras.below.get(id).map_or("", String::as_str);
        format!(
            "<figure class=\"figure\" id=\"fig-{id}\"{tabs}>\n<h2>{title}</h2>\n<figcaption>{caption}</figcaption>\n\
             <div class=\"panels\"></div>\n{below}<div class=\"actions\">\
             <button type=\"button\" data-save=\"csv\" aria-label=\"Save the numbers of {title} as CSV\">Save CSV</button>\
             <button type=\"button\" data-save=\"svg\" aria-label=\"Save the drawing of {title} as SVG\">Save SVG</button>\
             <details class=\"numbers\"><summary>Numbers as a table</summary>\
             <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Numbers of {title}\"></div></details></div>\n\
             <p class=\"made\">{made}</p>\n</figure>\n"
        )
    }
}

/// A collapsible sheet of preformatted text.
pub(crate) fn sheet_of_text(title: &str, text: &str) -> String {
    format!(
        "<section class=\"sheet\"><details><summary>{}</summary><pre tabindex=\"0\"><code>{}</code></pre></details></section>\n",
        escape(title),
        escape(text)
    )
}

/// A list of things the reader must know; empty without any.
pub(crate) fn notes(notes: &[String]) -> String {
    if notes.is_empty() {
        return String::new();
    }
    let items: String = notes
        .iter()
        .map(|note| format!("<li>{}</li>", escape(note)))
        .collect();
    format!("<section class=\"notes\"><h2>About these records</h2><ul>{items}</ul></section>\n")
}

/// `write!` to a string, which cannot fail.
pub(crate) fn push(html: &mut String, piece: std::fmt::Arguments<'_>) {
    html.write_fmt(piece)
        .expect("writing to a string cannot fail");
}

/// Text as HTML text or attribute value.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Control characters are not allowed in HTML; a reader should still see that something is there.
            '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{7f}' => {
                out.push('\u{fffd}')
            }
            other => out.push(other),
        }
    }
    out
}

/// Four significant digits with a true minus sign, powers of ten as they are printed.
pub(crate) fn number(value: f64) -> String {
    let text = four_digits(value);
    match text.split_once('e').filter(|_| value.is_finite()) {
        Some((digits, power)) => digits.replace('-', "\u{2212}") + &power_of_ten(power),
        None => text.replace('-', "\u{2212}"),
    }
}

/// `×10⁻⁶` of `-6`.
pub(crate) fn power_of_ten(power: &str) -> String {
    let raised = power.chars().map(|c| match c {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        '0' | '4'..='9' => char::from_u32(0x2070 + u32::from(c) - u32::from('0')).unwrap_or(c),
        other => other,
    });
    format!("×10{}", raised.collect::<String>())
}

/// The same with a sign, for changes.
pub(crate) fn signed(value: f64) -> String {
    let text = number(value);
    if value > 0.0 {
        format!("+{text}")
    } else {
        text
    }
}

/// Four significant digits in plain ASCII; exponents only where zeros would hide the number.
pub(crate) fn four_digits(value: f64) -> String {
    if !value.is_finite() {
        return "not finite".to_string();
    }
    if value == 0.0 {
        return "0".to_string();
    }
    let exponent = value.abs().log10().floor() as i32;
    if !(-3..6).contains(&exponent) {
        return format!("{value:.3e}");
    }
    let decimals = usize::try_from(3 - exponent).unwrap_or(0);
    format!("{value:.decimals$}")
}

/// A number without trailing zeros, for counts that need not be whole.
pub(crate) fn short(value: f64) -> String {
    format!("{value:.2}")
        .trim_end_matches('0')
        .trim_end_matches('.')
        .replace('-', "\u{2212}")
}

/// A name as part of a file name.
pub(crate) fn stem(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '_' {
                c
            } else {
                '-'
            }
        })
        .take(60)
        .collect();
    let plain = plain.trim_matches('-').to_string();
    if plain.is_empty() {
        "run".to_string()
    } else {
        plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_and_styles_cannot_end_their_element() {
        for script in [ECHARTS, CHARTS, PAIRS, PAGE] {
            let lower = script.to_lowercase();
            assert!(!lower.contains("</script") && !lower.contains("<!--"));
        }
        assert!(!STYLE.to_lowercase().contains("</style"));
    }

    #[test]
    fn numbers_have_four_digits() {
        let cases = [
            (0.0, "0"),
            (-52.3141, "-52.31"),
            (0.123_46, "0.1235"),
            (1234.5678, "1235"),
            (1e-6, "1.000e-6"),
        ];
        for (value, expected) in cases {
            assert_eq!(four_digits(value), expected);
        }
        assert_eq!(number(-1.5e-12), "\u{2212}1.500×10⁻¹²");
        assert_eq!(number(3.991e8), "3.991×10⁸");
        assert_eq!(number(f64::NAN), "not finite");
        assert_eq!(signed(-7.79), "\u{2212}7.790");
        assert_eq!(signed(7.79), "+7.790");
        assert_eq!(four_digits(f64::NAN), "not finite");
    }

    #[test]
    fn names_become_file_names() {
        assert_eq!(stem("a/b <c> ü"), "a-b--c");
        assert_eq!(stem("…"), "run");
    }
}
