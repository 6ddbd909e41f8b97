//! Which modules an adapter's settings name, as PEFT matches names.
//!
//! `target_modules` and `exclude_modules`: a list holds module paths or their ends behind a dot; a string is a regular
//! expression that has to match the whole path. `modules_to_save`: the plain end of a path, so that `norm` is also every
//! `input_layernorm`. Keys of `rank_pattern` and `alpha_pattern`: regular expressions for the end behind a dot, the first
//! match counts. The expressions are Python's, so they may look around; the steps that one may take are bounded.

use super::refused;
use crate::error::ModelError;
use crate::parameters::{ParamKind, ParamSpec};
use fancy_regex::{Regex, RegexBuilder};

/// Longest expression that is read.
const MAX_PATTERN: usize = 10_000;

/// The module of a parameter, as transformers 5 names it. GPT-NeoX's head is `lm_head` there, whatever checkpoints say.
pub(super) fn module(spec: &ParamSpec) -> &str {
    let name = &*spec.name;
    let ends = [".weight", ".bias"];
    let path = ends.iter().find_map(|end| name.strip_suffix(end));
    head_alias(path.unwrap_or(name))
}

/// The head's name in transformers 5, or any other name as it is.
pub(super) fn head_alias(module: &str) -> &str {
    match module {
        "embed_out" => super::HEAD,
        other => other,
    }
}

/// Whether a module's path is `name` or ends in `.name`.
pub(super) fn ends_in(path: &str, name: &str) -> bool {
    path.strip_suffix(name)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// A path and the paths of the modules around it: `a.b.c`, `a.b`, `a`.
fn with_outer(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |inner| Some(inner.rsplit_once('.')?.0))
}

/// Whether `modules_to_save` names the module or one around it: by the end of its path.
pub(super) fn saved_as(path: &str, name: &str) -> bool {
    !name.is_empty() && with_outer(path).any(|module| module.ends_with(name))
}

/// Whether PEFT keeps adapters off a module because `modules_to_save` names it or one around it, behind a dot.
pub(super) fn kept_whole(path: &str, name: &str) -> bool {
    with_outer(path).any(|module| ends_in(module, name))
}

/// Whether the pattern matches a module of the base that is no linear map and no table, such as a whole block.
pub(super) fn hits_other_modules<'a>(
    pattern: &Pattern,
    specs: &'a [ParamSpec],
    candidates: &[&str],
) -> Result<Option<&'a str>, ModelError> {
    let base = specs.iter().filter(|spec| spec.kind == ParamKind::Base);
    for path in base.flat_map(|spec| with_outer(module(spec))) {
        if !candidates.contains(&path) && pattern.matches(path)? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// A regular expression that has to match the whole of a path.
pub(super) struct Pattern {
    text: String,
    regex: Regex,
}

impl Pattern {
    /// Matches a whole path, as Python's `re.fullmatch`.
    pub(super) fn whole(text: &str) -> Result<Self, ModelError> {
        Self::new(text, format!(r"\A(?:{text})\z"))
    }

    /// Matches the end of a path behind a dot, or all of it.
    pub(super) fn ending(text: &str) -> Result<Self, ModelError> {
        Self::new(text, format!(r"\A(?:.*\.)?(?:{text})\z"))
    }

    fn new(text: &str, anchored: String) -> Result<Self, ModelError> {
        if text.len() > MAX_PATTERN {
            return Err(refused(format!(
                "a pattern of {} bytes, expected at most {MAX_PATTERN}",
                text.len()
            )));
        }
        let regex = RegexBuilder::new(&anchored)
            .backtrack_limit(100_000)
            .build();
        let regex = regex.map_err(|e| {
            // The last line says what is wrong, those before draw an arrow.
            let reason = e.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim();
            refused(format!("{text:?} is no regular expression: {reason}"))
        })?;
        Ok(Pattern {
            text: text.to_owned(),
            regex,
        })
    }

    pub(super) fn matches(&self, path: &str) -> Result<bool, ModelError> {
        self.regex.is_match(path).map_err(|e| {
            let text = &self.text;
            refused(format!(
                "the pattern {text:?} takes too long on module {path}: {e}\n\
                 hint: avoid repetitions inside repetitions, or name the modules"
            ))
        })
    }
}

/// The value of the first pattern that the path ends in, else `default` (PEFT's `get_pattern_key`).
pub(super) fn by_pattern<T: Copy>(
    patterns: &[(String, T)],
    path: &str,
    default: T,
) -> Result<T, ModelError> {
    for (key, value) in patterns {
        if Pattern::ending(key)?.matches(path)? {
            return Ok(*value);
        }
    }
    Ok(default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_to_save_go_by_the_end_of_a_name_and_by_the_modules_around() {
        let norm = "model.layers.0.input_layernorm";
        assert!(saved_as(norm, "norm") && saved_as(norm, "layers.0"));
        assert!(!saved_as(norm, "") && !saved_as(norm, "input"));
        assert!(!kept_whole(norm, "norm") && kept_whole(norm, "layers"));
    }

    #[test]
    fn patterns_match_whole_paths_look_around_and_end() {
        let path = "model.layers.1.self_attn.q_proj";
        let whole = |text: &str| Pattern::whole(text).unwrap().matches(path).unwrap();
        assert!(whole(r".*\.(q|v)_proj"));
        assert!(whole(r"(?!.*layers\.0\.).*q_proj"));
        assert!(!whole("q_proj") && !whole(r".*layers\.0.*|q_proj"));
        // Python's `$` also matches before a final line break; paths have none.
        assert!(!whole(r"(?!.*layers\.1\.).*q_proj"));
        assert!(Pattern::whole("(q_proj").is_err());
        let endless = Pattern::whole(r"(?=(a*)*b)\1.*").unwrap();
        let error = endless.matches(&"a".repeat(60)).unwrap_err().to_string();
        assert!(error.contains("takes too long"), "{error}");
        assert!(Pattern::whole(&"(a{1000}){1000}".repeat(3)).is_err());
        assert!(Pattern::whole(&"a".repeat(20_000)).is_err());
    }

    #[test]
    fn the_first_pattern_in_order_counts() {
        let patterns = [("q_proj".to_owned(), 4), (".*proj".to_owned(), 2)];
        assert_eq!(by_pattern(&patterns, "a.q_proj", 8).unwrap(), 4);
        assert_eq!(by_pattern(&patterns, "a.v_proj", 8).unwrap(), 2);
        assert_eq!(by_pattern(&patterns, "a.dense", 8).unwrap(), 8);
    }
}
