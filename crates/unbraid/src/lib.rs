//! The library face and the binary of Unbraid: arguments → checked configuration → calls.
//!
//! [`cli`] parses and resolves; [`commands`] does what a command says with the other crates; [`say`] is what people read,
//! and [`interrupt`] how the program is told to end. Nothing is computed here.

#[macro_use]
pub mod say;
pub mod cli;
pub mod commands;
pub mod interrupt;
mod redact;
mod stdout;
