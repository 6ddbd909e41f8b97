//! Secrets out of what is shown and written: tokens of hubs and trackers, and users and passwords in addresses.
//!
//! Three sources: options whose name says so, on the command line; environment variables of that kind; and the shape of a
//! hub token. Reports, run records and messages are made to be shared, so none of them holds the value.

use std::sync::OnceLock;

/// What stands in a secret's place.
pub(crate) const MASK: &str = "***";

/// Variables whose values are never shown.
const VARIABLES: &[&str] = &[
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HUGGINGFACEHUB_API_TOKEN",
    "WANDB_API_KEY",
    "COMET_API_KEY",
    "NEPTUNE_API_TOKEN",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
];

/// Shortest value that is looked for in texts: shorter ones would hide common words.
const SHORTEST: usize = 6;

/// Letters and digits behind `hf_` that make a token.
const TOKEN_LENGTH: usize = 20;

/// Whether an option's value is a secret, by its name.
pub(crate) fn is_secret(key: &str) -> bool {
    let key = key
        .trim_start_matches('-')
        .replace('-', "_")
        .to_ascii_lowercase();
    let ends = ["token", "api_key", "password", "secret", "auth_token"];
    // Names of the tokenizer's tokens, and numbers of tokens, are none.
    let harmless = ["pad_token", "eos_token", "bos_token", "unk_token"];
    !harmless.contains(&&*key)
        && ends
            .iter()
            .any(|end| key == *end || key.ends_with(&format!("_{end}")))
}

/// Words of a command line with the values of secret options masked.
pub(crate) fn words(given: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut hidden = false;
    let mask = |word: String| {
        let was_hidden = std::mem::take(&mut hidden);
        if !word.starts_with("--") {
            return if was_hidden {
                MASK.to_owned()
            } else {
                text(&word)
            };
        }
        match word.split_once('=') {
            Some((name, _)) if is_secret(name) => format!("{name}={MASK}"),
            Some(_) => text(&word),
            None => {
                hidden = is_secret(&word);
                word
            }
        }
    };
    given.into_iter().map(mask).collect()
}

/// Values of secret options among the words of a command line.
fn values(given: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for (i, word) in given
        .iter()
        .enumerate()
        .filter(|(_, word)| word.starts_with("--"))
    {
        match word.split_once('=') {
            Some((name, value)) if is_secret(name) => found.push(value.to_owned()),
            None if is_secret(word) => {
                let value = given.get(i + 1).filter(|next| !next.starts_with("--"));
                found.extend(value.cloned());
            }
            _ => {}
        }
    }
    found
}

/// What this process must not show.
fn known() -> &'static [String] {
    static KNOWN: OnceLock<Vec<String>> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let given: Vec<String> = std::env::args_os()
            .map(|w| w.to_string_lossy().into_owned())
            .collect();
        let variables = VARIABLES.iter().filter_map(|name| std::env::var(name).ok());
        let mut all: Vec<String> = values(&given).into_iter().chain(variables).collect();
        all.retain(|value| value.len() >= SHORTEST);
        all
    })
}

/// A text with secrets masked.
pub(crate) fn text(text: &str) -> String {
    let mut out = text.to_owned();
    for secret in known() {
        out = out.replace(secret, MASK);
    }
    tokens(&addresses(&out))
}

/// `scheme://user:password@host` without the user and the password.
fn addresses(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after
            .find(|c: char| c.is_whitespace() || "/?#\"'<>".contains(c))
            .unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(host) => {
                out.push_str(MASK);
                &after[host..]
            }
            None => after,
        };
    }
    out + rest
}

/// Hub tokens by their shape.
fn tokens(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find("hf_") {
        let (before, after) = rest.split_at(at);
        let inside = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let run = after[3..]
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(after.len() - 3);
        out.push_str(before);
        out.push_str(if !inside && run >= TOKEN_LENGTH {
            MASK
        } else {
            &after[..3 + run]
        });
        rest = &after[3 + run..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_secret_by_name() {
        for name in [
            "hub_token",
            "--hub-token",
            "--push-to-hub-token",
            "token",
            "use_auth_token",
            "wandb_api_key",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in [
            "pad_token",
            "eos_token",
            "max_new_tokens",
            "batch_tokens",
            "token_mask",
            "eos_token_id",
        ] {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn a_command_line_shows_no_secret() {
        let given = [
            "unbraid",
            "train",
            "--hub-token",
            "hf_x",
            "--hub_token=hf_y",
            "--seed",
            "1",
            "--token",
            "--bf16",
        ];
        let shown = words(given.map(str::to_owned)).join(" ");
        assert_eq!(
            shown,
            "unbraid train --hub-token *** --hub_token=*** --seed 1 --token --bf16"
        );
        assert_eq!(values(&given.map(str::to_owned)), ["hf_x", "hf_y"]);
    }

    #[test]
    fn texts_show_neither_tokens_nor_passwords() {
        let token = format!("hf_{}", "aB3".repeat(11));
        assert_eq!(
            text(&format!("with {token}, and \"{token}\"")),
            "with ***, and \"***\""
        );
        assert_eq!(
            text("hf_datasets/rows and my_hf_thing"),
            "hf_datasets/rows and my_hf_thing"
        );
        assert_eq!(
            text("at http://me:pw@host:80/x?q=a@b, or https://host/"),
            "at http://***@host:80/x?q=a@b, or https://host/"
        );
        assert_eq!(text("mail a@b, ://"), "mail a@b, ://");
    }
}
