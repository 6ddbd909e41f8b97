//! Typed access to the keys of a JSON configuration, with errors that name file, key and value.

use serde_json::{Map, Value};

use crate::error::ModelError;

/// A JSON object and the name of the file it came from.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'a> {
    pub(crate) map: &'a Map<String, Value>,
    pub(crate) origin: &'a str,
}

impl<'a> Keys<'a> {
    /// The value of `key`; `null` counts as absent, as in transformers.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn bad(&self, key: &str, found: impl ToString, expected: &str) -> ModelError {
        ModelError::ConfigValue {
            origin: self.origin.to_owned(),
            key: key.to_owned(),
            found: found.to_string(),
            expected: expected.to_owned(),
        }
    }

    pub(crate) fn unsupported(
        &self,
        key: &str,
        found: impl ToString,
        supported: &str,
    ) -> ModelError {
        ModelError::UnsupportedSetting {
            origin: self.origin.to_owned(),
            key: key.to_owned(),
            found: found.to_string(),
            supported: supported.to_owned(),
        }
    }

    /// An integer in 1..=`cap`, or `None` where the key is absent.
    pub(crate) fn optional_size(&self, key: &str, cap: usize) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        value
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| (1..=cap).contains(n))
            .map(Some)
            .ok_or_else(|| self.bad(key, value, &format!("an integer from 1 to {cap}")))
    }

    /// An integer in 0..=`cap`, or `default` where the key is absent.
    pub(crate) fn count_or(
        &self,
        key: &str,
        cap: usize,
        default: usize,
    ) -> Result<usize, ModelError> {
        let Some(value) = self.get(key) else {
            return Ok(default);
        };
        value
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| *n <= cap)
            .ok_or_else(|| self.bad(key, value, &format!("an integer from 0 to {cap}")))
    }

    /// An integer in 1..=`cap`.
    pub(crate) fn size(&self, key: &str, cap: usize) -> Result<usize, ModelError> {
        self.optional_size(key, cap)?
            .ok_or_else(|| ModelError::ConfigMissing {
                origin: self.origin.to_owned(),
                key: key.to_owned(),
            })
    }

    /// A finite number above zero, or `None` where the key is absent.
    pub(crate) fn optional_positive(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        value
            .as_f64()
            .filter(|x| x.is_finite() && *x > 0.0)
            .map(Some)
            .ok_or_else(|| self.bad(key, value, "a finite number above 0"))
    }

    /// A finite number above zero that must be present.
    pub(crate) fn positive(&self, key: &str) -> Result<f64, ModelError> {
        self.optional_positive(key)?
            .ok_or_else(|| ModelError::ConfigMissing {
                origin: self.origin.to_owned(),
                key: key.to_owned(),
            })
    }

    /// A number 0 ≤ p < 1, or `default` where the key is absent.
    pub(crate) fn share_or(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        let Some(value) = self.get(key) else {
            return Ok(default);
        };
        value
            .as_f64()
            .filter(|p| (0.0..1.0).contains(p))
            .ok_or_else(|| self.bad(key, value, "a number from 0 up to, but not including, 1"))
    }

    /// A boolean, or `default` where the key is absent.
    pub(crate) fn flag_or(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.bad(key, other, "true or false")),
        }
    }

    /// A string, or `None` where the key is absent.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.bad(key, other, "a string")),
        }
    }

    /// A nested object, or `None` where the key is absent.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Keys<'a>>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Keys {
                map,
                origin: self.origin,
            })),
            Some(other) => Err(self.bad(key, other, "an object")),
        }
    }

    /// `eos_token_id` as a list: one id, several, or none (`null`). A key that is absent means
    /// the family's `default`. Negative ids, which some old files use for "none", are left out.
    pub(crate) fn eos_token_ids(&self, default: Option<u32>) -> Result<Vec<u32>, ModelError> {
        const KEY: &str = "eos_token_id";
        let Some(value) = self.map.get(KEY) else {
            return Ok(default.into_iter().collect());
        };
        let listed = match value {
            Value::Null => &[],
            Value::Array(list) => list.as_slice(),
            one => std::slice::from_ref(one),
        };
        let mut ids = Vec::with_capacity(listed.len());
        for id in listed {
            let number = id
                .as_i64()
                .filter(|n| *n <= i64::from(u32::MAX))
                .ok_or_else(|| self.bad(KEY, value, "a token id or a list of token ids"))?;
            ids.extend(u32::try_from(number).ok());
        }
        Ok(ids)
    }

    /// The row of the token embedding that `pad_token_id` names, `None` for `null`; an absent key means the family's
    /// `default`. A negative id counts from the end, as PyTorch's `padding_idx` does.
    pub(crate) fn padding_row(
        &self,
        vocabulary: usize,
        default: Option<u32>,
    ) -> Result<Option<u32>, ModelError> {
        const KEY: &str = "pad_token_id";
        let value = match self.map.get(KEY) {
            None => return Ok(default.filter(|&row| (row as usize) < vocabulary)),
            Some(Value::Null) => return Ok(None),
            Some(value) => value,
        };
        let rows = vocabulary as i64; // capped far below
        let row = value.as_i64().filter(|id| (-rows..rows).contains(id));
        let row = row.ok_or_else(|| {
            let expected = format!(
                "null or a row of the embedding, an integer from -{rows} to {}",
                rows - 1
            );
            self.bad(KEY, value, &expected)
        })?;
        Ok(u32::try_from(row.rem_euclid(rows)).ok())
    }
}
