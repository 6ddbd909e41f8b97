//! Filters and tests that do not exist are refused before anything is rendered, except where Jinja2 lets them stand:
//! in the branches and tests of conditions, which may ask `x is filter` first. There they fail when reached.

use super::syntax::{Action, Arguments, Expr, Kind, Statement};
use super::{Fail, Result, filters, tests};

/// Checks the names of all filters and tests.
pub(super) fn check(body: &[Statement]) -> Result<()> {
    statements(body, false)
}

fn statements(body: &[Statement], soft: bool) -> Result<()> {
    for statement in body {
        match &statement.action {
            Action::Print(value) | Action::Set(_, value) => expression(value, soft)?,
            Action::For(each) => {
                expression(&each.iterable, soft)?;
                if let Some(test) = &each.test {
                    expression(test, false)?;
                }
                statements(&each.body, false)?;
                statements(&each.otherwise, false)?;
            }
            Action::If(branches, otherwise) => {
                for (test, body) in branches {
                    expression(test, true)?;
                    statements(body, true)?;
                }
                statements(otherwise, true)?;
            }
            Action::With(values, body) => {
                for (_, value) in values {
                    expression(value, false)?;
                }
                statements(body, false)?;
            }
            Action::SetBlock(_, filter, body) => {
                if let Some(filter) = filter {
                    expression(filter, false)?;
                }
                statements(body, false)?;
            }
            Action::FilterBlock(filter, body) => {
                expression(filter, false)?;
                statements(body, false)?;
            }
            Action::Macro(decl) => {
                decl.defaults
                    .iter()
                    .try_for_each(|value| expression(value, false))?;
                statements(&decl.body, false)?;
            }
            Action::CallBlock(call, decl) => {
                expression(call, soft)?;
                statements(&decl.body, false)?;
            }
            Action::Generation(body) | Action::Block(body) => statements(body, false)?,
            Action::Text(_) | Action::Break | Action::Continue | Action::NeedsLoader => {}
        }
    }
    Ok(())
}

fn all<'a>(parts: impl IntoIterator<Item = &'a Expr>, soft: bool) -> Result<()> {
    parts
        .into_iter()
        .try_for_each(|part| expression(part, soft))
}

fn arguments(of: &Arguments, soft: bool) -> Result<()> {
    all(&of.positional, soft)?;
    all(of.named.iter().map(|(_, value)| value), soft)?;
    all(of.star.as_deref(), soft)?;
    all(of.star_star.as_deref(), soft)
}

fn expression(expr: &Expr, soft: bool) -> Result<()> {
    match &expr.kind {
        Kind::Const(_) | Kind::Name(_) => Ok(()),
        Kind::List(items) | Kind::Tuple(items) | Kind::Concat(items) => all(items, soft),
        Kind::Dict(pairs) => {
            all(pairs.iter().map(|(key, _)| key), soft)?;
            all(pairs.iter().map(|(_, value)| value), soft)
        }
        Kind::Cond(test, value, otherwise) => {
            all([&**test, &**value], true)?;
            all(otherwise.as_deref(), true)
        }
        Kind::Or(a, b) | Kind::And(a, b) | Kind::Binary(_, a, b) | Kind::Item(a, b) => {
            all([&**a, &**b], soft)
        }
        Kind::Not(a) | Kind::Neg(a) | Kind::Pos(a) | Kind::Attribute(a, _) => expression(a, soft),
        Kind::Compare(first, rest) => {
            expression(first, soft)?;
            all(rest.iter().map(|(_, part)| part), soft)
        }
        Kind::Slice(of, bounds) => {
            expression(of, soft)?;
            all(bounds.iter().flatten(), soft)
        }
        Kind::Call(callee, args) => {
            expression(callee, soft)?;
            arguments(args, soft)
        }
        Kind::Filter(of, name, args) => {
            if !soft && !filters::exists(name) {
                return Err(Fail::at(expr.line, format!("no filter named '{name}'")));
            }
            all(of.as_deref(), soft)?;
            arguments(args, soft)
        }
        Kind::Test(of, name, args) => {
            if !soft && !tests::exists(name) {
                return Err(Fail::at(expr.line, format!("no test named '{name}'")));
            }
            expression(of, soft)?;
            arguments(args, soft)
        }
    }
}
