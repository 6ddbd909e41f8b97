//! The statements of a template: the part of the parser between `{%` and `%}`.

use std::sync::Arc;

use super::Result;
use super::lexer::Token;
use super::parser::{Parser, Special};
use super::syntax::{Action, Const, Expr, ForLoop, Kind, Macro, Statement, Target};

/// What Jinja2 cannot bind, because Python cannot.
const RESERVED: [&str; 6] = ["true", "false", "none", "True", "False", "None"];

impl Parser {
    /// Statements up to a tag named in `ends`, whose name is taken and given back; up to the end when `ends` is
    /// empty.
    pub fn statements(&mut self, ends: &[&'static str]) -> Result<(Vec<Statement>, &'static str)> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            match self.token().clone() {
                Token::Data(text) => {
                    self.next();
                    body.push(Statement {
                        line,
                        action: Action::Text(text),
                    });
                }
                Token::VariableBegin => {
                    self.next();
                    let value = self.tuple(true, false, &[])?;
                    self.expect(&Token::VariableEnd, "end of print statement")?;
                    body.push(Statement {
                        line,
                        action: Action::Print(value),
                    });
                }
                Token::BlockBegin => {
                    self.next();
                    if let Some(end) = ends.iter().find(|end| self.is_name(end)) {
                        self.next();
                        return Ok((body, end));
                    }
                    let line = self.line();
                    self.nested(|parser| parser.statement(line, ends, &mut body))?;
                    self.expect(&Token::BlockEnd, "end of statement block")?;
                }
                Token::End if ends.is_empty() => return Ok((body, "")),
                Token::End => {
                    return self.fail(format!(
                        "unexpected end of template, looking for {}",
                        ends.join(" or ")
                    ));
                }
                _ => return self.fail(format!("unexpected {}", self.here())),
            }
        }
    }

    /// The body of a block tag, whose own end comes first.
    fn body(&mut self, ends: &[&'static str]) -> Result<(Vec<Statement>, &'static str)> {
        self.skip_op(":");
        self.expect(&Token::BlockEnd, "end of statement block")?;
        self.statements(ends)
    }

    fn statement(&mut self, line: u32, ends: &[&str], body: &mut Vec<Statement>) -> Result<()> {
        let Token::Name(tag) = self.token().clone() else {
            return self.fail(format!("expected the name of a tag, found {}", self.here()));
        };
        self.next();
        let action = match &*tag {
            "for" => self.for_loop()?,
            "if" => self.condition_block()?,
            "set" => self.set()?,
            "with" => self.with()?,
            "macro" => self.macro_block()?,
            "call" => self.call_block()?,
            "filter" => {
                let filter = self.filter(None)?;
                let filter = self.more_filters(filter)?;
                Action::FilterBlock(filter, self.body(&["endfilter"])?.0)
            }
            "generation" => {
                let loops = std::mem::take(&mut self.loops);
                let content = self.body(&["endgeneration"])?.0;
                self.loops = loops;
                Action::Generation(content)
            }
            "block" => self.block()?,
            "print" => return self.print(line, body),
            "break" | "continue" if self.loops == 0 => {
                return self.fail(format!("'{tag}' outside of a loop"));
            }
            "break" => Action::Break,
            "continue" => Action::Continue,
            "extends" | "include" | "import" | "from" => {
                while !matches!(self.token(), Token::BlockEnd | Token::End) {
                    self.next();
                }
                Action::NeedsLoader
            }
            "autoescape" => return self.fail("autoescape is not supported"),
            _ if ends.is_empty() => return self.fail(format!("unknown tag '{tag}'")),
            _ => {
                return self.fail(format!(
                    "unknown tag '{tag}', looking for {}",
                    ends.join(" or ")
                ));
            }
        };
        body.push(Statement { line, action });
        Ok(())
    }

    fn print(&mut self, line: u32, body: &mut Vec<Statement>) -> Result<()> {
        let mut first = true;
        while self.token() != &Token::BlockEnd {
            if !first {
                self.expect_op(",")?;
            }
            let action = Action::Print(self.expression(true)?);
            body.push(Statement { line, action });
            first = false;
        }
        Ok(())
    }

    fn for_loop(&mut self) -> Result<Action> {
        let target = self.target(false, &["in"])?;
        if !self.skip_name("in") {
            return self.fail(format!("expected 'in', found {}", self.here()));
        }
        let iterable = self.tuple(false, false, &["recursive"])?;
        let test = if self.skip_name("if") {
            Some(self.expression(true)?)
        } else {
            None
        };
        let recursive = self.skip_name("recursive");
        self.loops += 1;
        let (body, end) = self.body(&["endfor", "else"])?;
        self.loops -= 1;
        let otherwise = if end == "else" {
            self.body(&["endfor"])?.0
        } else {
            Vec::new()
        };
        Ok(Action::For(Arc::new(ForLoop {
            target,
            iterable,
            test,
            recursive,
            body,
            otherwise,
        })))
    }

    fn condition_block(&mut self) -> Result<Action> {
        let mut branches = Vec::new();
        loop {
            let test = self.tuple(false, false, &[])?;
            let (body, end) = self.body(&["elif", "else", "endif"])?;
            branches.push((test, body));
            match end {
                "elif" => {}
                "else" => return Ok(Action::If(branches, self.body(&["endif"])?.0)),
                _ => return Ok(Action::If(branches, Vec::new())),
            }
        }
    }

    fn set(&mut self) -> Result<Action> {
        let target = self.target(true, &[])?;
        if self.skip_op("=") {
            return Ok(Action::Set(target, self.tuple(true, false, &[])?));
        }
        let filter = if self.skip_op("|") {
            let filter = self.filter(None)?;
            Some(self.more_filters(filter)?)
        } else {
            None
        };
        let body = self.body(&["endset"])?.0;
        Ok(Action::SetBlock(target, filter, body))
    }

    fn more_filters(&mut self, mut filter: Expr) -> Result<Expr> {
        while self.skip_op("|") {
            filter = self.filter(Some(filter))?;
        }
        Ok(filter)
    }

    fn with(&mut self) -> Result<Action> {
        let mut values = Vec::new();
        while self.token() != &Token::BlockEnd {
            if !values.is_empty() {
                self.expect_op(",")?;
            }
            let target = self.target(false, &[])?;
            self.expect_op("=")?;
            values.push((target, self.expression(true)?));
        }
        Ok(Action::With(values, self.body(&["endwith"])?.0))
    }

    fn block(&mut self) -> Result<Action> {
        self.expect_name()?;
        self.skip_name("scoped");
        if self.skip_name("required") {
            return self.fail("a required block needs a template that extends this one");
        }
        let loops = std::mem::take(&mut self.loops);
        let body = self.body(&["endblock"])?.0;
        self.loops = loops;
        if matches!(self.token(), Token::Name(_)) {
            self.next();
        }
        Ok(Action::Block(body))
    }

    /// A parameter list in brackets: the names, and the defaults of the last of them.
    fn signature(&mut self) -> Result<(Vec<Arc<str>>, Vec<Expr>)> {
        let (mut names, mut defaults): (Vec<Arc<str>>, _) = (Vec::new(), Vec::new());
        self.expect_op("(")?;
        while !self.is_op(")") {
            if !names.is_empty() {
                self.expect_op(",")?;
            }
            let name = self.bindable()?;
            if names.contains(&name) {
                return self.fail(format!("parameter '{name}' appears twice"));
            }
            if self.skip_op("=") {
                defaults.push(self.expression(true)?);
            } else if !defaults.is_empty() {
                return self.fail("non-default argument follows default argument");
            }
            names.push(name);
        }
        self.expect_op(")")?;
        Ok((names, defaults))
    }

    fn macro_of(
        &mut self,
        name: Arc<str>,
        (parameters, defaults): (Vec<Arc<str>>, Vec<Expr>),
        end: &'static str,
    ) -> Result<Arc<Macro>> {
        self.macros.push(Special::default());
        let loops = std::mem::take(&mut self.loops);
        let body = self.body(&[end])?.0;
        self.loops = loops;
        let special = self.macros.pop().unwrap_or_default();
        let own = |name: &str| parameters.iter().any(|known| **known == *name);
        Ok(Arc::new(Macro {
            name,
            uses_caller: special.caller && !own("caller"),
            uses_kwargs: special.kwargs && !own("kwargs"),
            uses_varargs: special.varargs && !own("varargs"),
            parameters,
            defaults,
            body,
        }))
    }

    fn macro_block(&mut self) -> Result<Action> {
        let name = self.bindable()?;
        let signature = self.signature()?;
        Ok(Action::Macro(self.macro_of(name, signature, "endmacro")?))
    }

    fn call_block(&mut self) -> Result<Action> {
        let signature = if self.is_op("(") {
            self.signature()?
        } else {
            (Vec::new(), Vec::new())
        };
        let call = self.expression(true)?;
        if !matches!(call.kind, Kind::Call(..)) {
            return self.fail("expected a call");
        }
        let body = self.macro_of("caller".into(), signature, "endcall")?;
        Ok(Action::CallBlock(call, body))
    }

    fn bindable(&mut self) -> Result<Arc<str>> {
        let name = self.expect_name()?;
        if RESERVED.contains(&&*name) {
            return self.fail(format!("cannot assign to '{name}'"));
        }
        Ok(name)
    }

    /// What is assigned to: a name, `name.attribute` when `attributes`, or several as a tuple.
    fn target(&mut self, attributes: bool, ends: &[&str]) -> Result<Target> {
        let mut targets = Vec::new();
        let mut tuple = false;
        loop {
            if !targets.is_empty() {
                self.expect_op(",")?;
            }
            let ended = matches!(
                self.token(),
                Token::VariableEnd | Token::BlockEnd | Token::Op(")")
            ) || ends.iter().any(|end| self.is_name(end));
            if ended {
                break;
            }
            targets.push(self.target_part(attributes)?);
            if !self.is_op(",") {
                break;
            }
            tuple = true;
        }
        match targets.pop() {
            Some(only) if !tuple => Ok(only),
            Some(last) => {
                targets.push(last);
                Ok(Target::Tuple(targets))
            }
            None => self.fail(format!("expected a name, found {}", self.here())),
        }
    }

    fn target_part(&mut self, attributes: bool) -> Result<Target> {
        if self.is_op("(") {
            let inner = self.nested(Self::primary)?;
            return self.as_target(inner);
        }
        let name = self.bindable()?;
        if attributes && self.skip_op(".") {
            return Ok(Target::Attribute(name, self.expect_name()?));
        }
        Ok(Target::Name(name))
    }

    /// A tuple in brackets as a target.
    fn as_target(&self, expr: Expr) -> Result<Target> {
        match expr.kind {
            Kind::Name(name) if !RESERVED.contains(&&*name) => Ok(Target::Name(name)),
            Kind::Tuple(items) => Ok(Target::Tuple(
                items
                    .into_iter()
                    .map(|item| self.as_target(item))
                    .collect::<Result<_>>()?,
            )),
            Kind::Const(Const::Bool(_) | Const::None) => self.fail("cannot assign to a constant"),
            _ => self.fail("can only assign to names"),
        }
    }
}
