//! Renders a parsed template.
//!
//! Scopes as Jinja2 makes them: loops, macros, `with`, `filter`, block assignments and `generation` have one of their own,
//! conditions have not; a name is looked up from the innermost scope outwards. A macro sees the scope it was defined in as
//! it is when the macro is called.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::arguments::Args;
use super::syntax::{
    Action, Arguments, Comparison, Const, Expr, ForLoop, Kind, Macro, Statement, Target,
};
use super::value::{Function, Loop, Value, nested};
use super::{Fail, Result, attributes, filters, iterate, ops, repr, tests};

/// The longest text that a template makes, in bytes; the output's limit too.
pub(super) const MAX_TEXT: usize = 32 << 20;

/// All bytes that a rendering reads and makes in texts and lists.
const MAX_BYTES: u64 = 1 << 29;

/// All steps of a rendering. A conversation of a thousand turns takes well under a tenth of it.
const MAX_STEPS: u64 = 5_000_000;

/// How deep evaluation may nest, macros that call themselves included.
const MAX_NESTING: u32 = 2_000;

/// The names that hold values, innermost first.
#[derive(Debug)]
pub(super) struct Scope {
    names: RefCell<Vec<(Arc<str>, Value)>>,
    parent: Option<Rc<Scope>>,
}

impl Scope {
    fn root() -> Rc<Self> {
        Rc::new(Self {
            names: RefCell::default(),
            parent: None,
        })
    }

    pub fn inside(parent: &Rc<Self>) -> Rc<Self> {
        Rc::new(Self {
            names: RefCell::default(),
            parent: Some(Rc::clone(parent)),
        })
    }

    pub fn set(&self, name: &Arc<str>, value: Value) {
        let mut names = self.names.borrow_mut();
        match names.iter_mut().find(|(known, _)| known == name) {
            Some((_, slot)) => *slot = value,
            None => names.push((Arc::clone(name), value)),
        }
    }

    pub fn get(&self, name: &str) -> Option<Value> {
        let mut scope = self;
        loop {
            if let Some((_, value)) = scope.names.borrow().iter().find(|(n, _)| **n == *name) {
                return Some(value.clone());
            }
            scope = scope.parent.as_deref()?;
        }
    }
}

/// What a rendering has used up.
#[derive(Debug, Default)]
pub(super) struct Budget {
    steps: u64,
    bytes: u64,
}

impl Budget {
    /// Counts steps.
    pub fn steps(&mut self, count: usize) -> Result<()> {
        self.steps += count as u64;
        if self.steps > MAX_STEPS {
            return Err(Fail::new(format!(
                "the template takes more than {MAX_STEPS} steps"
            )));
        }
        Ok(())
    }

    /// Counts bytes that are read or about to be made.
    pub fn bytes(&mut self, count: usize) -> Result<()> {
        self.bytes = self.bytes.saturating_add(count as u64);
        if self.bytes > MAX_BYTES {
            return Err(Fail::new(format!(
                "the template makes more than {MAX_BYTES} bytes of text and lists"
            )));
        }
        Ok(())
    }

    /// Counts a text that is about to be made.
    pub fn text(&mut self, length: usize) -> Result<()> {
        if length > MAX_TEXT {
            return Err(Fail::new(format!(
                "the template makes a text of more than {MAX_TEXT} bytes"
            )));
        }
        self.bytes(length)
    }

    /// Counts a list of so many items that is about to be made.
    pub fn items(&mut self, count: usize) -> Result<()> {
        self.bytes(count.saturating_mul(size_of::<Value>()))
    }

    /// Appends to a text.
    pub fn push(&mut self, out: &mut String, text: &str) -> Result<()> {
        if out.len() + text.len() > MAX_TEXT {
            return self.text(out.len() + text.len());
        }
        self.bytes(text.len())?;
        out.push_str(text);
        Ok(())
    }

    /// Appends a character several times.
    pub fn push_many(&mut self, out: &mut String, c: char, count: usize) -> Result<()> {
        let length = count.saturating_mul(c.len_utf8());
        if length.saturating_add(out.len()) > MAX_TEXT {
            return self.text(usize::MAX);
        }
        self.bytes(length)?;
        out.extend(std::iter::repeat_n(c, count));
        Ok(())
    }
}

/// Where a body went after its last statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

/// A rendering.
pub(super) struct Vm {
    pub budget: Budget,
    /// Namespaces by number: their attributes.
    pub namespaces: Vec<Vec<(Arc<str>, Value)>>,
    /// Macros by number, with the scope that they see.
    pub macros: Vec<(Arc<Macro>, Rc<Scope>)>,
    root: Rc<Scope>,
    nesting: u32,
    line: u32,
}

const GLOBALS: [(&str, Function); 8] = [
    ("range", Function::Range),
    ("dict", Function::Dict),
    ("namespace", Function::Namespace),
    ("raise_exception", Function::RaiseException),
    ("strftime_now", Function::StrftimeNow),
    ("cycler", Function::Unsupported("cycler")),
    ("joiner", Function::Unsupported("joiner")),
    ("lipsum", Function::Unsupported("lipsum")),
];

/// Renders a template with variables by name.
pub(super) fn render(
    body: &[Statement],
    variables: &serde_json::Map<String, serde_json::Value>,
) -> Result<String> {
    let globals = Scope::root();
    for (name, function) in GLOBALS {
        globals.set(&name.into(), Value::Function(function));
    }
    let root = Scope::inside(&globals);
    for (name, value) in variables {
        root.set(&name.as_str().into(), Value::from_json(value)?);
    }
    let mut vm = Vm {
        budget: Budget::default(),
        namespaces: Vec::new(),
        macros: Vec::new(),
        root: Rc::clone(&root),
        nesting: 0,
        line: 1,
    };
    let mut out = String::new();
    let done = vm.run(body, &root, &mut out);
    let line = vm.line;
    done.map_err(|fail| fail.or_at(line))?;
    Ok(out)
}

impl Vm {
    fn enter(&mut self) -> Result<()> {
        self.budget.steps(1)?;
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return Err(Fail::new(format!(
                "evaluation nests deeper than {MAX_NESTING} levels"
            )));
        }
        Ok(())
    }

    fn run(&mut self, body: &[Statement], scope: &Rc<Scope>, out: &mut String) -> Result<Flow> {
        for statement in body {
            self.enter()?;
            self.line = statement.line;
            let flow = self.statement(&statement.action, scope, out)?;
            self.nesting -= 1;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    /// A body as text.
    fn captured(&mut self, body: &[Statement], scope: &Rc<Scope>) -> Result<String> {
        let mut out = String::new();
        self.run(body, scope, &mut out)?;
        Ok(out)
    }

    fn statement(&mut self, action: &Action, scope: &Rc<Scope>, out: &mut String) -> Result<Flow> {
        match action {
            Action::Text(text) => self.budget.push(out, text)?,
            Action::Print(value) => {
                let value = self.eval(value, scope)?;
                repr::write_str(self, &value, out)?;
            }
            Action::For(each) => {
                let items = self.loop_items(each, scope)?;
                self.run_loop(each, items, scope, 0, out)?;
            }
            Action::If(branches, otherwise) => {
                for (test, body) in branches {
                    if self.eval(test, scope)?.truthy() {
                        return self.run(body, scope, out);
                    }
                }
                return self.run(otherwise, scope, out);
            }
            Action::With(values, body) => {
                let inner = Scope::inside(scope);
                for (target, value) in values {
                    let value = self.eval(value, scope)?;
                    self.assign(target, value, &inner)?;
                }
                return self.run(body, &inner, out);
            }
            Action::Set(target, value) => {
                let value = self.eval(value, scope)?;
                self.assign(target, value, scope)?;
            }
            Action::SetBlock(target, filter, body) => {
                let inner = Scope::inside(scope);
                let text = Value::from(self.captured(body, &inner)?);
                let value = match filter {
                    Some(filter) => self.block_filter(filter, text, &inner)?,
                    None => text,
                };
                self.assign(target, value, scope)?;
            }
            Action::FilterBlock(filter, body) => {
                let inner = Scope::inside(scope);
                let text = Value::from(self.captured(body, &inner)?);
                let value = self.block_filter(filter, text, &inner)?;
                repr::write_str(self, &value, out)?;
            }
            Action::Macro(decl) => {
                let value = self.new_macro(decl, scope);
                scope.set(&decl.name, value);
            }
            Action::CallBlock(call, body) => {
                let caller = self.new_macro(body, scope);
                let Kind::Call(callee, arguments) = &call.kind else {
                    return Err(Fail::new("expected a call"));
                };
                let callee = self.eval(callee, scope)?;
                let mut args = self.arguments(arguments, scope)?;
                args.named.push(("caller".into(), caller));
                let value = self.call(&callee, args)?;
                repr::write_str(self, &value, out)?;
            }
            Action::Generation(body) => {
                self.run(body, &Scope::inside(scope), out)?;
            }
            Action::Block(body) => {
                let root = Rc::clone(&self.root);
                self.run(body, &Scope::inside(&root), out)?;
            }
            Action::Break => return Ok(Flow::Break),
            Action::Continue => return Ok(Flow::Continue),
            Action::NeedsLoader => {
                return Err(Fail::new("other templates cannot be loaded from this one"));
            }
        }
        Ok(Flow::Next)
    }

    fn new_macro(&mut self, decl: &Arc<Macro>, scope: &Rc<Scope>) -> Value {
        self.macros.push((Arc::clone(decl), Rc::clone(scope)));
        Value::Macro(self.macros.len() - 1)
    }

    fn block_filter(&mut self, filter: &Expr, text: Value, scope: &Rc<Scope>) -> Result<Value> {
        let Kind::Filter(of, name, arguments) = &filter.kind else {
            return Err(Fail::new("expected a filter"));
        };
        let of = match of {
            Some(of) => self.block_filter(of, text, scope)?,
            None => text,
        };
        let args = self.arguments(arguments, scope)?;
        filters::apply(self, name, of, args)
    }

    fn loop_items(&mut self, each: &ForLoop, scope: &Rc<Scope>) -> Result<Vec<Value>> {
        let iterable = self.eval(&each.iterable, scope)?;
        self.kept_items(each, &iterable, scope)
    }

    fn kept_items(
        &mut self,
        each: &ForLoop,
        iterable: &Value,
        scope: &Rc<Scope>,
    ) -> Result<Vec<Value>> {
        let items = iterate::all(self, iterable)?;
        let Some(test) = &each.test else {
            return Ok(items);
        };
        let mut kept = Vec::new();
        for item in items {
            let inner = Scope::inside(scope);
            self.assign(&each.target, item.clone(), &inner)?;
            if self.eval(test, &inner)?.truthy() {
                kept.push(item);
            }
        }
        Ok(kept)
    }

    fn run_loop(
        &mut self,
        each: &Arc<ForLoop>,
        items: Vec<Value>,
        scope: &Rc<Scope>,
        depth0: usize,
        out: &mut String,
    ) -> Result<()> {
        if items.is_empty() {
            self.run(&each.otherwise, &Scope::inside(scope), out)?;
            return Ok(());
        }
        let again = each.recursive.then(|| (Arc::clone(each), Rc::clone(scope)));
        let depth = nested(items.iter().map(Value::depth).max())?;
        let state = Rc::new(Loop {
            depth,
            items,
            index: Cell::new(0),
            depth0,
            changed: RefCell::new(None),
            again,
        });
        let name: Arc<str> = "loop".into();
        for (index, item) in state.items.iter().enumerate() {
            state.index.set(index);
            let inner = Scope::inside(scope);
            inner.set(&name, Value::Loop(Rc::clone(&state)));
            self.assign(&each.target, item.clone(), &inner)?;
            self.budget.steps(1)?;
            if self.run(&each.body, &inner, out)? == Flow::Break {
                break;
            }
        }
        Ok(())
    }

    fn assign(&mut self, target: &Target, value: Value, scope: &Rc<Scope>) -> Result<()> {
        match target {
            Target::Name(name) => scope.set(name, value),
            Target::Attribute(name, attribute) => {
                let Some(Value::Namespace(number)) = scope.get(name) else {
                    return Err(Fail::new("cannot assign attribute on non-namespace object"));
                };
                set_attribute(&mut self.namespaces[number], attribute, value)?;
            }
            Target::Tuple(targets) => {
                let items = iterate::all(self, &value)?;
                if items.len() != targets.len() {
                    return Err(Fail::new(format!(
                        "cannot unpack {} values into {} names",
                        items.len(),
                        targets.len()
                    )));
                }
                for (target, item) in targets.iter().zip(items) {
                    self.assign(target, item, scope)?;
                }
            }
        }
        Ok(())
    }

    fn all(&mut self, items: &[Expr], scope: &Rc<Scope>) -> Result<Vec<Value>> {
        self.budget.items(items.len())?;
        items.iter().map(|item| self.eval(item, scope)).collect()
    }

    fn eval(&mut self, expr: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        self.enter()?;
        let value = self.kind(expr, scope)?;
        self.nesting -= 1;
        Ok(value)
    }

    fn kind(&mut self, expr: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        Ok(match &expr.kind {
            Kind::Const(constant) => match constant {
                Const::None => Value::None,
                Const::Bool(value) => Value::Bool(*value),
                Const::Int(value) => Value::Int(*value),
                Const::Float(value) => Value::Float(*value),
                Const::Str(text) => Value::text(Arc::clone(text), false),
            },
            Kind::Name(name) => match scope.get(name) {
                Some(value) => value,
                None => Value::undefined(format!("'{name}' is undefined")),
            },
            Kind::List(items) => Value::list(self.all(items, scope)?)?,
            Kind::Tuple(items) => Value::tuple(self.all(items, scope)?)?,
            Kind::Dict(pairs) => {
                self.budget.items(2 * pairs.len())?;
                let mut entries = Vec::with_capacity(pairs.len());
                for (key, value) in pairs {
                    let pair = (self.eval(key, scope)?, self.eval(value, scope)?);
                    attributes::insert(self, &mut entries, pair)?;
                }
                Value::dict(entries)?
            }
            Kind::Cond(test, value, otherwise) => {
                if self.eval(test, scope)?.truthy() {
                    self.eval(value, scope)?
                } else if let Some(otherwise) = otherwise {
                    self.eval(otherwise, scope)?
                } else {
                    Value::undefined(
                        "the inline if-expression evaluated to false and no else section was defined",
                    )
                }
            }
            Kind::Or(a, b) => {
                let a = self.eval(a, scope)?;
                if a.truthy() { a } else { self.eval(b, scope)? }
            }
            Kind::And(a, b) => {
                let a = self.eval(a, scope)?;
                if a.truthy() { self.eval(b, scope)? } else { a }
            }
            Kind::Not(a) => Value::Bool(!self.eval(a, scope)?.truthy()),
            Kind::Compare(first, rest) => self.compare(first, rest, scope)?,
            Kind::Binary(op, a, b) => {
                let a = self.eval(a, scope)?;
                let b = self.eval(b, scope)?;
                ops::binary(self, *op, &a, &b)?
            }
            Kind::Concat(parts) => {
                let mut text = String::new();
                for part in parts {
                    let part = self.eval(part, scope)?;
                    repr::write_str(self, &part, &mut text)?;
                }
                Value::from(text)
            }
            Kind::Neg(a) => {
                let a = self.eval(a, scope)?;
                ops::negative(&a)?
            }
            Kind::Pos(a) => {
                let a = self.eval(a, scope)?;
                ops::positive(&a)?
            }
            Kind::Attribute(of, name) => {
                let of = self.eval(of, scope)?;
                attributes::attribute(self, &of, name)?
            }
            Kind::Item(of, key) => {
                let of = self.eval(of, scope)?;
                let key = self.eval(key, scope)?;
                attributes::item(self, &of, &key)?
            }
            Kind::Slice(of, bounds) => {
                let constant = matches!(of.kind, Kind::Const(_));
                let of = self.eval(of, scope)?;
                let mut values = [None, None, None];
                for (slot, bound) in values.iter_mut().zip(bounds.iter()) {
                    if let Some(bound) = bound {
                        *slot = Some(self.eval(bound, scope)?);
                    }
                }
                // Jinja2 folds a constant, and gives undefined where Python raises.
                if constant && of.as_str().is_none() {
                    return Ok(Value::undefined("a constant that has no items"));
                }
                ops::slice(self, &of, &values)?
            }
            Kind::Call(callee, arguments) => {
                let callee = self.eval(callee, scope)?;
                let args = self.arguments(arguments, scope)?;
                self.line = expr.line;
                self.call(&callee, args)?
            }
            Kind::Filter(of, name, arguments) => {
                let Some(of) = of else {
                    return Err(Fail::new("a filter without a value"));
                };
                let of = self.eval(of, scope)?;
                let args = self.arguments(arguments, scope)?;
                self.line = expr.line;
                filters::apply(self, name, of, args)?
            }
            Kind::Test(of, name, arguments) => {
                let of = self.eval(of, scope)?;
                let args = self.arguments(arguments, scope)?;
                self.line = expr.line;
                Value::Bool(tests::apply(self, name, &of, args)?)
            }
        })
    }

    fn compare(
        &mut self,
        first: &Expr,
        rest: &[(Comparison, Expr)],
        scope: &Rc<Scope>,
    ) -> Result<Value> {
        let mut left = self.eval(first, scope)?;
        for (op, right) in rest {
            let right = self.eval(right, scope)?;
            if !ops::compare(self, *op, &left, &right)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    fn arguments(&mut self, of: &Arguments, scope: &Rc<Scope>) -> Result<Args> {
        let mut args = Args {
            positional: self.all(&of.positional, scope)?,
            named: Vec::with_capacity(of.named.len()),
        };
        for (name, value) in &of.named {
            args.named
                .push((Arc::clone(name), self.eval(value, scope)?));
        }
        if let Some(star) = &of.star {
            let star = self.eval(star, scope)?;
            args.positional.extend(iterate::all(self, &star)?);
        }
        if let Some(star_star) = &of.star_star {
            let Value::Dict(dict) = self.eval(star_star, scope)? else {
                return Err(Fail::new("the argument after ** must be a mapping"));
            };
            for (key, value) in &dict.entries {
                let Value::Str(key) = key else {
                    return Err(Fail::new("keywords must be strings"));
                };
                self.budget.steps(1 + args.named.len())?;
                if args.named.iter().any(|(name, _)| *name == key.text) {
                    return Err(Fail::new(format!(
                        "multiple values for keyword argument '{}'",
                        key.text
                    )));
                }
                args.named.push((Arc::clone(&key.text), value.clone()));
            }
        }
        Ok(args)
    }

    /// Calls a value.
    pub fn call(&mut self, callee: &Value, args: Args) -> Result<Value> {
        match callee {
            Value::Macro(number) => self.call_macro(*number, args),
            Value::Method(bound) => {
                let (of, name) = &**bound;
                super::methods::call(self, of, name, args)
            }
            Value::Function(function) => attributes::call_function(self, *function, args),
            Value::Loop(state) => self.call_loop(state, args),
            Value::Undefined(missing) => Err(Fail::new(missing.message.clone())),
            other => Err(Fail::new(format!(
                "'{}' object is not callable",
                other.type_name()
            ))),
        }
    }

    fn call_loop(&mut self, state: &Rc<Loop>, args: Args) -> Result<Value> {
        let [iterable] = args.positional("loop()", 1)?;
        let Some((each, scope)) = &state.again else {
            return Err(Fail::new(
                "the loop must have the 'recursive' marker to be called",
            ));
        };
        let iterable = iterable.unwrap_or(Value::None);
        let items = self.kept_items(each, &iterable, scope)?;
        let mut out = String::new();
        self.enter()?;
        self.run_loop(each, items, scope, state.depth0 + 1, &mut out)?;
        self.nesting -= 1;
        Ok(Value::from(out))
    }

    fn call_macro(&mut self, number: usize, args: Args) -> Result<Value> {
        self.enter()?;
        let (decl, outer) = &self.macros[number];
        let (decl, scope) = (Arc::clone(decl), Scope::inside(outer));
        let Args {
            mut positional,
            mut named,
        } = args;
        let count = decl.parameters.len();
        let rest = positional.split_off(positional.len().min(count));
        let given = positional.len();
        for (name, value) in decl.parameters.iter().zip(positional) {
            scope.set(name, value);
        }
        let first_default = count - decl.defaults.len();
        for (at, name) in decl.parameters.iter().enumerate().skip(given) {
            let value = match named.iter().position(|(known, _)| known == name) {
                Some(found) => named.remove(found).1,
                None if at >= first_default => {
                    self.eval(&decl.defaults[at - first_default], &scope)?
                }
                None => Value::undefined(format!("parameter '{name}' was not provided")),
            };
            scope.set(name, value);
        }
        if decl.uses_caller {
            let caller = match named.iter().position(|(known, _)| **known == *"caller") {
                Some(found) => named.remove(found).1,
                None => Value::undefined("no caller defined"),
            };
            scope.set(&"caller".into(), caller);
        }
        if decl.uses_kwargs {
            let entries = named.drain(..);
            let entries = entries.map(|(name, value)| (Value::text(name, false), value));
            scope.set(&"kwargs".into(), Value::dict(entries.collect())?);
        } else if let Some((name, _)) = named.first() {
            return Err(Fail::new(format!(
                "macro '{}' takes no keyword argument '{name}'",
                decl.name
            )));
        }
        if decl.uses_varargs {
            scope.set(&"varargs".into(), Value::tuple(rest)?);
        } else if !rest.is_empty() {
            return Err(Fail::new(format!(
                "macro '{}' takes not more than {count} argument(s)",
                decl.name
            )));
        }
        let text = self.captured(&decl.body, &scope)?;
        self.nesting -= 1;
        Ok(Value::from(text))
    }
}

/// Sets an attribute of a namespace.
pub(super) fn set_attribute(
    namespace: &mut Vec<(Arc<str>, Value)>,
    name: &Arc<str>,
    value: Value,
) -> Result<()> {
    if name.starts_with('_') {
        return Err(Fail::new(format!(
            "a namespace cannot hold '{name}': its names do not begin with an underscore"
        )));
    }
    match namespace.iter_mut().find(|(known, _)| known == name) {
        Some((_, slot)) => *slot = value,
        None => namespace.push((Arc::clone(name), value)),
    }
    Ok(())
}
