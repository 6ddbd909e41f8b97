//! Settings of a run, by the names that a recipe of `unbraid train` or `unbraid sft` gives them.

/// A recipe: keys in snake_case with their values as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipe(Vec<(String, String)>);

impl Recipe {
    /// An empty recipe.
    pub fn new() -> Self {
        Recipe::default()
    }

    /// With a setting, which replaces an earlier one of the same name.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        let value = value.to_string();
        match self.0.iter_mut().find(|(known, _)| known == key) {
            Some((_, earlier)) => *earlier = value,
            None => self.0.push((key.to_owned(), value)),
        }
        self
    }

    /// With all settings of another, which win.
    #[must_use]
    pub fn and(self, other: &Recipe) -> Self {
        let settings = other.0.iter();
        settings.fold(self, |recipe, (key, value)| recipe.with(key, value))
    }

    /// A setting's value.
    pub fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value.as_str())
    }

    /// As options of a command line, `--key=value`.
    pub fn words(&self) -> impl Iterator<Item = String> + '_ {
        self.0.iter().map(|(key, value)| format!("--{key}={value}"))
    }
}

/// The remedies that experiments judge: three rules for the coefficients, two token masks.
pub const REMEDIES: [&str; 5] = ["normalized", "guarded", "calibrated", "diff", "head"];

/// What a remedy adds to a recipe; `None` for an unknown name. `none` adds nothing.
pub fn remedy(name: &str) -> Option<Recipe> {
    let key = match name {
        "none" => return Some(Recipe::new()),
        "normalized" | "guarded" | "calibrated" => "remedy",
        "diff" | "head" => "token_mask",
        _ => return None,
    };
    Some(Recipe::new().with(key, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_settings_win() {
        let recipe = Recipe::new().with("beta", 0.1).with("max_steps", 5);
        let recipe = recipe.and(&Recipe::new().with("beta", 2));
        let words: Vec<String> = recipe.words().collect();
        assert_eq!(words, ["--beta=2", "--max_steps=5"]);
        assert_eq!(recipe.get("beta"), Some("2"));
    }

    #[test]
    fn every_remedy_has_a_recipe() {
        assert!(REMEDIES.iter().all(|name| remedy(name).is_some()));
        assert_eq!(remedy("none"), Some(Recipe::new()));
        assert_eq!(remedy("magic"), None);
    }
}
