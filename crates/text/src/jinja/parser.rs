//! From tokens to statements, as Jinja2's parser: the same precedence, the same places for tuples and conditions.
//!
//! Nesting is counted: blocks within blocks, brackets within brackets and the depth of an expression, which also grows
//! along chains (`1+1+...`, `x|f|f`, `a.b.c`). Beyond the limits the template is refused, so that neither
//! parsing, rendering nor dropping it can exhaust the stack. Python's compiler has limits of the same order.
//!
//! Source: `jinja2/parser.py`, version 3.1.6. Statements: `statements.rs`.

use std::sync::Arc;

use super::lexer::{Token, tokenize};
use super::syntax::{Arguments, Binary, Comparison, Const, Expr, Kind, Statement};
use super::{Fail, Result};

/// How deep an expression may be.
const MAX_EXPRESSION: u32 = 400;

/// How many constructs may be open at once while parsing: brackets, prefix operators, blocks.
const MAX_OPEN: u32 = 200;

/// The names that decide what a macro takes.
#[derive(Default)]
pub(super) struct Special {
    pub caller: bool,
    pub kwargs: bool,
    pub varargs: bool,
}

pub(super) struct Parser {
    tokens: Vec<(Token, u32)>,
    at: usize,
    open: u32,
    /// How many loops are open in the innermost function, for `break` and `continue`.
    pub loops: u32,
    /// What the macros that are open use.
    pub macros: Vec<Special>,
}

/// Parses a template.
pub(super) fn parse(source: &str) -> Result<Vec<Statement>> {
    let mut parser = Parser {
        tokens: tokenize(source)?,
        at: 0,
        open: 0,
        loops: 0,
        macros: Vec::new(),
    };
    let (body, _) = parser.statements(&[])?;
    super::check::check(&body)?;
    Ok(body)
}

fn deepest(parts: &[Expr]) -> u32 {
    parts.iter().map(|part| part.depth).max().unwrap_or(0)
}

impl Arguments {
    fn depth(&self) -> u32 {
        let named = self.named.iter().map(|(_, value)| value.depth);
        let stars = [&self.star, &self.star_star];
        let stars = stars
            .into_iter()
            .flatten()
            .map(|value| value.depth)
            .max()
            .unwrap_or(0);
        named
            .max()
            .unwrap_or(0)
            .max(stars)
            .max(deepest(&self.positional))
    }
}

impl Parser {
    pub fn token(&self) -> &Token {
        &self.tokens[self.at].0
    }

    pub fn line(&self) -> u32 {
        self.tokens[self.at].1
    }

    fn look(&self) -> &Token {
        let next = (self.at + 1).min(self.tokens.len() - 1);
        &self.tokens[next].0
    }

    /// Takes a token; the end stays.
    pub fn next(&mut self) -> Token {
        let token = self.token().clone();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        token
    }

    pub fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Fail::at(self.line(), message))
    }

    pub fn is_op(&self, op: &str) -> bool {
        matches!(self.token(), Token::Op(found) if *found == op)
    }

    pub fn is_name(&self, name: &str) -> bool {
        matches!(self.token(), Token::Name(found) if **found == *name)
    }

    pub fn skip_op(&mut self, op: &str) -> bool {
        let found = self.is_op(op);
        if found {
            self.next();
        }
        found
    }

    pub fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        if found {
            self.next();
        }
        found
    }

    /// What stands here, as an error names it.
    pub fn here(&self) -> String {
        match self.token() {
            Token::Data(_) => "template data".to_owned(),
            Token::VariableBegin => "begin of print statement".to_owned(),
            Token::VariableEnd => "end of print statement".to_owned(),
            Token::BlockBegin => "begin of statement block".to_owned(),
            Token::BlockEnd => "end of statement block".to_owned(),
            Token::Name(name) => format!("'{name}'"),
            Token::Str(_) => "string".to_owned(),
            Token::Int(_) | Token::Float(_) => "number".to_owned(),
            Token::Op(op) => format!("'{op}'"),
            Token::End => "end of template".to_owned(),
        }
    }

    pub fn expect(&mut self, token: &Token, what: &str) -> Result<()> {
        if self.token() == token {
            self.next();
            return Ok(());
        }
        self.fail(format!("expected {what}, found {}", self.here()))
    }

    pub fn expect_op(&mut self, op: &'static str) -> Result<()> {
        self.expect(&Token::Op(op), &format!("'{op}'"))
    }

    pub fn expect_name(&mut self) -> Result<Arc<str>> {
        match self.token().clone() {
            Token::Name(name) => {
                self.next();
                Ok(name)
            }
            _ => self.fail(format!("expected a name, found {}", self.here())),
        }
    }

    /// Runs a part that may contain itself, counting how deep.
    pub fn nested<T>(&mut self, part: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.open >= MAX_OPEN {
            return self.fail(format!("nested deeper than {MAX_OPEN} levels"));
        }
        self.open += 1;
        let result = part(self);
        self.open -= 1;
        result
    }

    fn make(&self, kind: Kind, line: u32, inner: u32) -> Result<Expr> {
        let depth = inner + 1;
        if depth > MAX_EXPRESSION {
            return self.fail(format!("an expression of more than {MAX_EXPRESSION} steps"));
        }
        Ok(Expr { kind, line, depth })
    }

    fn binary(
        &self,
        kind: impl FnOnce(Box<Expr>, Box<Expr>) -> Kind,
        left: Expr,
        right: Expr,
    ) -> Result<Expr> {
        let (line, depth) = (left.line, left.depth.max(right.depth));
        self.make(kind(Box::new(left), Box::new(right)), line, depth)
    }

    /// An expression, with `a if b else c` when `conditions`.
    pub fn expression(&mut self, conditions: bool) -> Result<Expr> {
        self.nested(|parser| {
            if conditions {
                parser.condition()
            } else {
                parser.or()
            }
        })
    }

    fn condition(&mut self) -> Result<Expr> {
        let mut value = self.or()?;
        while self.skip_name("if") {
            let test = self.or()?;
            let otherwise = if self.skip_name("else") {
                Some(Box::new(self.nested(Self::condition)?))
            } else {
                None
            };
            let depth = otherwise.as_ref().map_or(0, |expr| expr.depth);
            let depth = depth.max(test.depth).max(value.depth);
            let line = value.line;
            value = self.make(
                Kind::Cond(Box::new(test), Box::new(value), otherwise),
                line,
                depth,
            )?;
        }
        Ok(value)
    }

    fn or(&mut self) -> Result<Expr> {
        let mut left = self.and()?;
        while self.skip_name("or") {
            let right = self.and()?;
            left = self.binary(Kind::Or, left, right)?;
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expr> {
        let mut left = self.not()?;
        while self.skip_name("and") {
            let right = self.not()?;
            left = self.binary(Kind::And, left, right)?;
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expr> {
        let line = self.line();
        if self.skip_name("not") {
            let inner = self.nested(Self::not)?;
            let depth = inner.depth;
            return self.make(Kind::Not(Box::new(inner)), line, depth);
        }
        self.compare()
    }

    fn compare(&mut self) -> Result<Expr> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let op = match self.token() {
                Token::Op("==") => Comparison::Eq,
                Token::Op("!=") => Comparison::Ne,
                Token::Op("<") => Comparison::Lt,
                Token::Op("<=") => Comparison::Le,
                Token::Op(">") => Comparison::Gt,
                Token::Op(">=") => Comparison::Ge,
                Token::Name(name) if **name == *"in" => Comparison::In,
                Token::Name(name)
                    if **name == *"not"
                        && matches!(self.look(), Token::Name(next) if **next == *"in") =>
                {
                    self.next();
                    Comparison::NotIn
                }
                _ => break,
            };
            self.next();
            rest.push((op, self.sum()?));
        }
        if rest.is_empty() {
            return Ok(first);
        }
        let depth = rest.iter().map(|(_, part)| part.depth).max().unwrap_or(0);
        let (line, depth) = (first.line, depth.max(first.depth));
        self.make(Kind::Compare(Box::new(first), rest), line, depth)
    }

    fn sum(&mut self) -> Result<Expr> {
        let mut left = self.concat()?;
        loop {
            let op = match self.token() {
                Token::Op("+") => Binary::Add,
                Token::Op("-") => Binary::Sub,
                _ => return Ok(left),
            };
            self.next();
            let right = self.concat()?;
            left = self.binary(|a, b| Kind::Binary(op, a, b), left, right)?;
        }
    }

    fn concat(&mut self) -> Result<Expr> {
        let first = self.product()?;
        if !self.is_op("~") {
            return Ok(first);
        }
        let line = first.line;
        let mut parts = vec![first];
        while self.skip_op("~") {
            parts.push(self.product()?);
        }
        let depth = deepest(&parts);
        self.make(Kind::Concat(parts), line, depth)
    }

    fn product(&mut self) -> Result<Expr> {
        let mut left = self.power()?;
        loop {
            let op = match self.token() {
                Token::Op("*") => Binary::Mul,
                Token::Op("/") => Binary::Div,
                Token::Op("//") => Binary::FloorDiv,
                Token::Op("%") => Binary::Mod,
                _ => return Ok(left),
            };
            self.next();
            let right = self.power()?;
            left = self.binary(|a, b| Kind::Binary(op, a, b), left, right)?;
        }
    }

    fn power(&mut self) -> Result<Expr> {
        let mut left = self.unary(true)?;
        while self.skip_op("**") {
            let right = self.unary(true)?;
            left = self.binary(|a, b| Kind::Binary(Binary::Pow, a, b), left, right)?;
        }
        Ok(left)
    }

    fn unary(&mut self, filters: bool) -> Result<Expr> {
        let line = self.line();
        let node = if self.skip_op("-") {
            let inner = self.nested(|parser| parser.unary(false))?;
            let depth = inner.depth;
            self.make(Kind::Neg(Box::new(inner)), line, depth)?
        } else if self.skip_op("+") {
            let inner = self.nested(|parser| parser.unary(false))?;
            let depth = inner.depth;
            self.make(Kind::Pos(Box::new(inner)), line, depth)?
        } else {
            self.primary()?
        };
        let node = self.postfix(node)?;
        if filters {
            self.suffixes(node)
        } else {
            Ok(node)
        }
    }

    /// A name, a literal or something in brackets.
    pub fn primary(&mut self) -> Result<Expr> {
        let line = self.line();
        let kind = match self.token().clone() {
            Token::Name(name) => {
                self.next();
                match &*name {
                    "true" | "True" => Kind::Const(Const::Bool(true)),
                    "false" | "False" => Kind::Const(Const::Bool(false)),
                    "none" | "None" => Kind::Const(Const::None),
                    _ => {
                        self.note_use(&name);
                        Kind::Name(name)
                    }
                }
            }
            Token::Str(first) => {
                self.next();
                let mut text = first;
                while let Token::Str(more) = self.token().clone() {
                    text = format!("{text}{more}").into();
                    self.next();
                }
                Kind::Const(Const::Str(text))
            }
            Token::Int(value) => {
                self.next();
                Kind::Const(Const::Int(value))
            }
            Token::Float(value) => {
                self.next();
                Kind::Const(Const::Float(value))
            }
            Token::Op("(") => {
                self.next();
                let inner = self.tuple(true, true, &[])?;
                self.expect_op(")")?;
                return Ok(inner);
            }
            Token::Op("[") => {
                self.next();
                let items = self.items("]", |parser| parser.expression(true))?;
                let depth = deepest(&items);
                return self.make(Kind::List(items), line, depth);
            }
            Token::Op("{") => {
                self.next();
                let pairs = self.items("}", |parser| {
                    let key = parser.expression(true)?;
                    parser.expect_op(":")?;
                    Ok((key, parser.expression(true)?))
                })?;
                let depth = pairs.iter().map(|(key, value)| key.depth.max(value.depth));
                let depth = depth.max().unwrap_or(0);
                return self.make(Kind::Dict(pairs), line, depth);
            }
            _ => return self.fail(format!("unexpected {}", self.here())),
        };
        self.make(kind, line, 0)
    }

    fn note_use(&mut self, name: &str) {
        for open in &mut self.macros {
            match name {
                "caller" => open.caller = true,
                "kwargs" => open.kwargs = true,
                "varargs" => open.varargs = true,
                _ => {}
            }
        }
    }

    /// Items between commas up to a closing bracket, which is taken.
    fn items<T>(
        &mut self,
        close: &'static str,
        item: impl Fn(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut items = Vec::new();
        while !self.is_op(close) {
            if !items.is_empty() {
                self.expect_op(",")?;
                if self.is_op(close) {
                    break;
                }
            }
            items.push(item(self)?);
        }
        self.expect_op(close)?;
        Ok(items)
    }

    /// An expression, or several with commas as a tuple. `ends` are names that end it as brackets do.
    pub fn tuple(&mut self, conditions: bool, explicit: bool, ends: &[&str]) -> Result<Expr> {
        let line = self.line();
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            if !items.is_empty() {
                self.expect_op(",")?;
            }
            let ended = matches!(
                self.token(),
                Token::VariableEnd | Token::BlockEnd | Token::Op(")")
            ) || ends.iter().any(|end| self.is_name(end));
            if ended {
                break;
            }
            items.push(self.expression(conditions)?);
            if !self.is_op(",") {
                break;
            }
            is_tuple = true;
        }
        if !is_tuple {
            if let Some(only) = items.pop() {
                return Ok(only);
            }
            if !explicit {
                return self.fail(format!("expected an expression, found {}", self.here()));
            }
        }
        let depth = deepest(&items);
        self.make(Kind::Tuple(items), line, depth)
    }

    fn postfix(&mut self, mut node: Expr) -> Result<Expr> {
        loop {
            node = match self.token() {
                Token::Op(".") | Token::Op("[") => self.subscript(node)?,
                Token::Op("(") => self.call(node)?,
                _ => return Ok(node),
            };
        }
    }

    fn suffixes(&mut self, mut node: Expr) -> Result<Expr> {
        loop {
            node = match self.token() {
                Token::Op("|") => {
                    self.next();
                    self.filter(Some(node))?
                }
                Token::Name(name) if **name == *"is" => self.test(node)?,
                Token::Op("(") => self.call(node)?,
                _ => return Ok(node),
            };
        }
    }

    fn subscript(&mut self, node: Expr) -> Result<Expr> {
        let (line, depth) = (node.line, node.depth);
        if self.skip_op(".") {
            let kind = match self.next() {
                Token::Name(name) => Kind::Attribute(Box::new(node), name),
                Token::Int(index) => {
                    let index = self.make(Kind::Const(Const::Int(index)), line, 0)?;
                    Kind::Item(Box::new(node), Box::new(index))
                }
                _ => return self.fail("expected a name or number after '.'"),
            };
            return self.make(kind, line, depth);
        }
        self.expect_op("[")?;
        let mut items = Vec::new();
        let mut slice = None;
        while !self.is_op("]") {
            if !items.is_empty() || slice.is_some() {
                self.expect_op(",")?;
            }
            match self.subscribed()? {
                Ok(item) => items.push(item),
                Err(bounds) => slice = Some(bounds),
            }
        }
        self.expect_op("]")?;
        if let Some(bounds) = slice {
            if !items.is_empty() {
                return self.fail("a slice stands alone in its brackets");
            }
            let inner = bounds.iter().flatten().map(|bound| bound.depth).max();
            let inner = inner.unwrap_or(0).max(depth);
            return self.make(Kind::Slice(Box::new(node), Box::new(bounds)), line, inner);
        }
        let inner = deepest(&items).max(depth);
        let index = if items.len() == 1 {
            items.remove(0)
        } else {
            self.make(Kind::Tuple(items), line, inner)?
        };
        self.make(Kind::Item(Box::new(node), Box::new(index)), line, inner + 1)
    }

    /// An index, or the three bounds of a slice.
    fn subscribed(&mut self) -> Result<Result<Expr, [Option<Expr>; 3]>> {
        let mut bounds = [None, None, None];
        if !self.is_op(":") {
            let first = self.expression(true)?;
            if !self.is_op(":") {
                return Ok(Ok(first));
            }
            bounds[0] = Some(first);
        }
        self.next();
        for bound in &mut bounds[1..] {
            if !self.is_op(":") && !self.is_op("]") && !self.is_op(",") {
                *bound = Some(self.expression(true)?);
            }
            if !self.skip_op(":") {
                break;
            }
        }
        Ok(Err(bounds))
    }

    fn call(&mut self, node: Expr) -> Result<Expr> {
        let arguments = self.arguments()?;
        let (line, depth) = (node.line, node.depth.max(arguments.depth()));
        self.make(Kind::Call(Box::new(node), arguments), line, depth)
    }

    fn arguments(&mut self) -> Result<Arguments> {
        self.expect_op("(")?;
        let mut arguments = Arguments::default();
        let mut comma = false;
        while !self.is_op(")") {
            if comma {
                self.expect_op(",")?;
                if self.is_op(")") {
                    break;
                }
            }
            self.argument(&mut arguments)?;
            comma = true;
        }
        self.expect_op(")")?;
        Ok(arguments)
    }

    fn argument(&mut self, into: &mut Arguments) -> Result<()> {
        let starred = into.star.is_some();
        let double = into.star_star.is_some();
        let named = matches!(
            (self.token(), self.look()),
            (Token::Name(_), Token::Op("="))
        );
        let fits = if self.is_op("*") {
            !starred && !double
        } else if self.is_op("**") || named {
            !double
        } else {
            !starred && !double && into.named.is_empty()
        };
        if !fits {
            return self.fail("invalid syntax for a function call");
        }
        if self.skip_op("*") {
            into.star = Some(Box::new(self.expression(true)?));
        } else if self.skip_op("**") {
            into.star_star = Some(Box::new(self.expression(true)?));
        } else if named {
            let name = self.expect_name()?;
            self.next();
            if into.named.iter().any(|(known, _)| *known == name) {
                return self.fail(format!("keyword argument repeated: {name}"));
            }
            into.named.push((name, self.expression(true)?));
        } else {
            into.positional.push(self.expression(true)?);
        }
        Ok(())
    }

    /// A filter's name, with dots.
    fn dotted(&mut self) -> Result<Arc<str>> {
        let mut name = self.expect_name()?;
        while self.skip_op(".") {
            name = format!("{name}.{}", self.expect_name()?).into();
        }
        Ok(name)
    }

    /// The filter after `|`, which is taken.
    pub fn filter(&mut self, node: Option<Expr>) -> Result<Expr> {
        let line = self.line();
        let name = self.dotted()?;
        let arguments = if self.is_op("(") {
            self.arguments()?
        } else {
            Arguments::default()
        };
        let depth = node.as_ref().map_or(0, |node| node.depth);
        let depth = depth.max(arguments.depth());
        self.make(
            Kind::Filter(node.map(Box::new), name, arguments),
            line,
            depth,
        )
    }

    fn test(&mut self, node: Expr) -> Result<Expr> {
        let line = self.line();
        self.next();
        let negated = self.skip_name("not");
        let name = self.dotted()?;
        let arguments = match self.token() {
            Token::Op("(") => self.arguments()?,
            Token::Name(word) if matches!(&**word, "else" | "or" | "and") => Arguments::default(),
            Token::Name(word) if **word == *"is" => {
                return self.fail("tests with 'is' cannot be chained");
            }
            Token::Name(_) | Token::Str(_) | Token::Int(_) | Token::Float(_) => {
                self.test_argument()?
            }
            Token::Op("[" | "{") => self.test_argument()?,
            _ => Arguments::default(),
        };
        let depth = node.depth.max(arguments.depth());
        let mut node = self.make(Kind::Test(Box::new(node), name, arguments), line, depth)?;
        if negated {
            let depth = node.depth;
            node = self.make(Kind::Not(Box::new(node)), line, depth)?;
        }
        Ok(node)
    }

    fn test_argument(&mut self) -> Result<Arguments> {
        let argument = self.primary()?;
        Ok(Arguments {
            positional: vec![self.postfix(argument)?],
            ..Arguments::default()
        })
    }
}
