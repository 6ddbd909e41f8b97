//! Where things are kept between runs: `$UNBRAID_CACHE`, else `$XDG_CACHE_HOME/unbraid`, else `~/.cache/unbraid`.
//!
//! Below it `reference/` holds log-probs of reference models, `cuda/` kernels compiled for a GPU. Everything there may be deleted at any time.

use std::ffi::OsString;
use std::path::PathBuf;

/// Where log-probs of reference models are; `None` where no variable says where that could be.
pub(crate) fn reference_dir() -> Option<PathBuf> {
    Some(root(|name| std::env::var_os(name))?.join("reference"))
}

/// Where kernels compiled for a GPU are; `None` as for [`reference_dir`].
pub(crate) fn kernels_dir() -> Option<PathBuf> {
    Some(root(|name| std::env::var_os(name))?.join("cuda"))
}

fn root(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name| {
        variable(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("UNBRAID_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("unbraid")))
        .or_else(|| Some(set("HOME")?.join(".cache/unbraid")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_variable_that_is_set_decides() {
        let with = |set: &[(&str, &str)]| {
            let value = |name: &str| set.iter().find(|(key, _)| *key == name);
            root(|name| value(name).map(|(_, value)| value.into()))
        };
        let home = ("HOME", "/h");
        assert_eq!(with(&[home]), Some("/h/.cache/unbraid".into()));
        let xdg = ("XDG_CACHE_HOME", "/x");
        assert_eq!(with(&[xdg, home]), Some("/x/unbraid".into()));
        assert_eq!(
            with(&[("UNBRAID_CACHE", "/u"), xdg, home]),
            Some("/u".into())
        );
        assert_eq!(
            with(&[("UNBRAID_CACHE", ""), home]),
            Some("/h/.cache/unbraid".into())
        );
        assert_eq!(with(&[]), None);
    }
}
