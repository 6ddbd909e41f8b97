//! `layer_types`: which layers see a sliding window only (transformers 4.53 and later).

use super::keys::Keys;
use crate::error::ModelError;

/// One window a layer: `window` in the layers that `layer_types` calls `sliding_attention`, none in
/// those it calls `full_attention`. Without the key `slides` decides.
pub(super) fn read_layer_types(
    keys: &Keys<'_>,
    layers: usize,
    window: Option<usize>,
    slides: impl Fn(usize) -> bool,
) -> Result<Vec<Option<usize>>, ModelError> {
    const KEY: &str = "layer_types";
    let sliding: Vec<bool> = match keys.get(KEY) {
        None => (0..layers).map(slides).collect(),
        Some(value) => {
            let expected = format!("a list of {layers} layer types, one a layer");
            let list = value.as_array().filter(|list| list.len() == layers);
            let list = list.ok_or_else(|| keys.bad(KEY, value, &expected))?;
            let kind = |entry: &serde_json::Value| match entry.as_str() {
                Some("full_attention") => Ok(false),
                Some("sliding_attention") => Ok(true),
                _ => Err(keys.unsupported(KEY, entry, "full_attention, sliding_attention")),
            };
            list.iter().map(kind).collect::<Result<_, _>>()?
        }
    };
    if window.is_none() && sliding.contains(&true) {
        let expected = "a number of tokens: some layers have sliding attention";
        return Err(keys.bad("sliding_window", "switched off", expected));
    }
    Ok(sliding
        .into_iter()
        .map(|slides| window.filter(|_| slides))
        .collect())
}
