//! The theorems of the paper (SPEC §5) as numbers.
