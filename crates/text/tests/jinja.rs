//! Templates against what Jinja2 under `transformers` rendered (`parity/jinja.py`), and templates that mean harm.

#![allow(
    clippy::unwrap_used,
    reason = "a test helper that fails should stop the test"
)]

use serde_json::{Map, Value};
use unbraid_text::ChatTemplate;

fn render(source: &str, variables: &Map<String, Value>) -> Result<String, String> {
    ChatTemplate::compile(source)
        .and_then(|template| template.render_variables(variables))
        .map_err(|error| error.to_string())
}

#[test]
fn probes_render_as_jinja2_renders_them() {
    let golden: Value = serde_json::from_str(include_str!("parity/jinja.json")).unwrap();
    let variables = golden["variables"].as_object().unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 800, "{}", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let source = case[0].as_str().unwrap();
        let rendered = render(source, variables);
        if rendered.as_deref().ok() != case[1].as_str() {
            wrong.push(format!(
                "{source}\n  expected {}\n  got {rendered:?}",
                case[1]
            ));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn templates_that_grow_without_bound_are_refused() {
    let chain = |part: &str| format!("{{{{ 1{} }}}}", part.repeat(8000));
    let grow = |how: &str| {
        format!(
            "{{% set ns = namespace(s=[1], t='x') %}}{{% for i in range(20000) %}}{{% set {how} %}}{{% endfor %}}{{{{ ns.s }}}}"
        )
    };
    let sources = [
        chain("+1"),
        chain("|abs"),
        chain(".a"),
        chain("[0]"),
        chain("()"),
        chain(" and 1"),
        chain(" if 0 else 1"),
        format!("{{{{ {}1 }}}}", "not ".repeat(6000)),
        format!("{{{{ {}{} }}}}", "[".repeat(6000), "]".repeat(6000)),
        format!(
            "{}{}",
            "{% if 1 %}".repeat(3000),
            "{% endif %}".repeat(3000)
        ),
        grow("ns.s = [ns.s]"),
        grow("ns.s = ns.s + ns.s"),
        grow("ns.t = ns.t ~ ns.t"),
        grow("ns.s = [ns.s, ns.s]"),
        grow("ns.s = ns.s|map('string')"),
        grow("ns.s = ns"),
        grow("ns.s = {'a': ns.s}"),
        "{{ [1]|tojson(indent=10**9) }}".to_owned(),
        "{{ '%999999999d' % 1 }}".to_owned(),
        "{{ '%.999999999f' % 1.5 }}".to_owned(),
        "{{ '%*d' % (10**12, 1) }}".to_owned(),
        "{{ 'a'.ljust(10**9) }}".to_owned(),
        "{{ 'a'|center(10**12) }}".to_owned(),
        "{{ 'x' * 10**10 }}".to_owned(),
        "{{ ([0] * 10**10)|length }}".to_owned(),
        "{{ range(10**9) }}".to_owned(),
        "{{ '{:999999999}'.format(1) }}".to_owned(),
        "{{ '{:060000000,}'.format(1) }}".to_owned(),
        "{{ '\\t'.expandtabs(10**12) }}".to_owned(),
        "{{ 'a\\nb'|indent(10**12) }}".to_owned(),
        "{{ ('a' * 10**6).replace('a', 'b' * 10**6) }}".to_owned(),
        "{{ [1]|slice(10**9)|list }}".to_owned(),
        "{{ 10**10**10 }}".to_owned(),
        "{{ strftime_now('%999999999Y') }}".to_owned(),
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_owned(),
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_owned(),
        "{% for a in range(99999) %}{{ 'x' * 10000 }}{% endfor %}".to_owned(),
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}".to_owned(),
    ];
    for source in sources {
        let head: String = source.chars().take(80).collect();
        assert!(render(&source, &Map::new()).is_err(), "{head}");
    }
}

#[test]
fn deep_tuples_as_keys_are_hashed_in_no_time() {
    let source = "{% set ns = namespace(s=(1,)) %}{% for i in range(100) %}{% set ns.s = (ns.s, ns.s) %}{% endfor %}{{ {ns.s: 1}|length }}";
    assert_eq!(render(source, &Map::new()).unwrap(), "1");
}

#[test]
fn errors_name_the_file_and_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/parity/tiny/tokenizer.json"
    );
    std::fs::copy(tiny, dir.path().join("tokenizer.json")).unwrap();
    let template = dir.path().join("chat_template.jinja");
    std::fs::write(&template, format!("a\n{{{{ 1{} }}}}", "+1".repeat(6000))).unwrap();
    let error = unbraid_text::Tokenizer::from_dir(dir.path()).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("chat_template.jinja: an expression of more than 400 steps (line 2)"),
        "{error}"
    );
    std::fs::write(&template, "a\n{{ x.y }}").unwrap();
    let tokenizer = unbraid_text::Tokenizer::from_dir(dir.path()).unwrap();
    let error = tokenizer.apply_chat_template(&[], false).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("chat_template.jinja: 'x' is undefined (line 2)"),
        "{error}"
    );
}
