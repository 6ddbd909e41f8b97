//! Renders chat templates for a comparison by hand: each line of standard input is a JSON object with `template` (the
//! source) and `variables`; each line of output is the text as a JSON string, or `{"error": "..."}`.

use std::io::{BufRead, Write};

use unbraid_text::ChatTemplate;

#[expect(clippy::disallowed_methods, reason = "a program of its own")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in std::io::stdin().lock().lines() {
        let case: serde_json::Value = serde_json::from_str(&line?)?;
        let source = case["template"].as_str().ok_or("`template` is a string")?;
        let variables = case["variables"]
            .as_object()
            .ok_or("`variables` is an object")?;
        let rendered =
            ChatTemplate::compile(source).and_then(|template| template.render_variables(variables));
        let answer = match rendered {
            Ok(text) => serde_json::Value::from(text),
            Err(error) => serde_json::json!({"error": error.to_string()}),
        };
        writeln!(out, "{answer}")?;
    }
    Ok(())
}
