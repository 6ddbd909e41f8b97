//! The arguments of a call, matched with the names of what is called.

use std::sync::Arc;

use super::value::Value;
use super::{Fail, Result};

/// Values by position and by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Args {
    pub positional: Vec<Value>,
    pub named: Vec<(Arc<str>, Value)>,
}

impl Args {
    /// Matches the arguments with parameters, of which the first `required` must be given.
    pub fn bind<const N: usize>(
        self,
        what: &str,
        names: [&str; N],
        required: usize,
    ) -> Result<[Option<Value>; N]> {
        if self.positional.len() > N {
            return Err(Fail::new(format!(
                "{what} takes at most {N} arguments ({} given)",
                self.positional.len()
            )));
        }
        let mut bound = [const { None }; N];
        for (slot, value) in bound.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.named {
            let Some(at) = names.iter().position(|known| **known == *name) else {
                return Err(Fail::new(format!(
                    "{what} got an unexpected keyword argument '{name}'"
                )));
            };
            if bound[at].replace(value).is_some() {
                return Err(Fail::new(format!(
                    "{what} got multiple values for argument '{name}'"
                )));
            }
        }
        match (0..required).find(|&at| bound[at].is_none()) {
            Some(at) => Err(Fail::new(format!(
                "{what} misses its argument '{}'",
                names[at]
            ))),
            None => Ok(bound),
        }
    }

    /// Matches positional arguments alone, as Python's built-in methods take them.
    pub fn positional<const N: usize>(
        self,
        what: &str,
        required: usize,
    ) -> Result<[Option<Value>; N]> {
        if let Some((name, _)) = self.named.first() {
            return Err(Fail::new(format!(
                "{what} takes no keyword arguments, got '{name}'"
            )));
        }
        if self.positional.len() < required || self.positional.len() > N {
            return Err(Fail::new(format!(
                "{what} takes {required} to {N} arguments ({} given)",
                self.positional.len()
            )));
        }
        let mut bound = [const { None }; N];
        for (slot, value) in bound.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        Ok(bound)
    }
}

/// An argument that must be text.
pub(super) fn text<'a>(what: &str, value: &'a Value) -> Result<&'a str> {
    value.as_str().ok_or_else(|| {
        Fail::new(format!(
            "{what} expects a string, found {}",
            value.type_name()
        ))
    })
}

/// An argument that must be an integer.
pub(super) fn integer(what: &str, value: &Value) -> Result<i128> {
    value.as_int().ok_or_else(|| {
        Fail::new(format!(
            "{what} expects an integer, found {}",
            value.type_name()
        ))
    })
}

/// An optional flag: Python's truth of the value.
pub(super) fn flag(value: Option<&Value>) -> bool {
    value.is_some_and(Value::truthy)
}
