//! How alike two completions are as token ids: the cheapest guesses at entangled gradients.
//!
//! Both are shares, so that pairs of any length compare. Which tokens stand where counts for the one (edit distance),
//! not for the other (shared tokens).

use std::collections::HashMap;

/// Levenshtein distance (insertions, deletions, substitutions, 1 each) over the longer length: 0 for equal sequences,
/// 1 where nothing is kept. Two empty sequences are equal.
pub fn edit_distance(a: &[u32], b: &[u32]) -> f64 {
    let longer = a.len().max(b.len());
    if longer == 0 {
        return 0.0;
    }
    // A common beginning or end costs nothing, and often is most of the pair.
    let start = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[start..], &b[start..]);
    let end = a.iter().rev().zip(b.iter().rev());
    let end = end.take_while(|(a, b)| a == b).count();
    let (a, b) = (a[..a.len() - end].to_vec(), b[..b.len() - end].to_vec());
    strsim::generic_levenshtein(&a, &b) as f64 / longer as f64
}

/// Overlap of the two multisets of tokens, 2|a ∩ b| / (L_a + L_b): 1 for permutations of each other, 0 without a common
/// token. Two empty sequences overlap wholly.
pub fn shared_tokens(a: &[u32], b: &[u32]) -> f64 {
    if a.is_empty() && b.is_empty() {
        return 1.0;
    }
    let mut left: HashMap<u32, usize> = HashMap::new();
    a.iter().for_each(|&id| *left.entry(id).or_default() += 1);
    let taken = b.iter().filter(|id| match left.get_mut(id) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    });
    2.0 * taken.count() as f64 / (a.len() + b.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distances_by_hand() {
        // One substitution in 3.
        assert_eq!(edit_distance(&[1, 2, 3], &[1, 9, 3]), 1.0 / 3.0);
        // Two insertions at the front, longer length 4.
        assert_eq!(edit_distance(&[3, 4], &[1, 2, 3, 4]), 0.5);
        // kitten → sitting: 3 over 7.
        let ids = |word: &str| word.bytes().map(u32::from).collect::<Vec<_>>();
        assert_eq!(edit_distance(&ids("kitten"), &ids("sitting")), 3.0 / 7.0);
        assert_eq!(edit_distance(&[5, 5], &[5, 5]), 0.0);
        assert_eq!(edit_distance(&[1, 2], &[3, 4]), 1.0);
        // The beginning and the end that are alike may not be counted twice: 1 deletion in 3.
        assert_eq!(edit_distance(&[7, 7, 7], &[7, 7]), 1.0 / 3.0);
        assert_eq!(edit_distance(&[], &[]), 0.0);
        assert_eq!(edit_distance(&[], &[1]), 1.0);
    }

    #[test]
    fn shared_tokens_by_hand() {
        // {1, 1, 2} ∩ {1, 2, 2} = {1, 2}: 2·2/6.
        assert_eq!(shared_tokens(&[1, 1, 2], &[2, 1, 2]), 4.0 / 6.0);
        assert_eq!(shared_tokens(&[1, 2, 3], &[3, 1, 2]), 1.0);
        assert_eq!(shared_tokens(&[1], &[2, 3]), 0.0);
        assert_eq!(shared_tokens(&[], &[]), 1.0);
    }
}
