//! unbraid

pub mod cli;
