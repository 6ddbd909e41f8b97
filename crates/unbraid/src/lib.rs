//! The library face and the binary of Unbraid: arguments → checked configuration → calls.
//!
//! [`cli`] parses and resolves; [`commands`] does what a command says with the other crates. Nothing is
//! computed here.

pub mod cli;
pub mod commands;
mod redact;
