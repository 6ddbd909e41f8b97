//! What a template is made of once it is parsed.

use std::sync::Arc;

/// A constant of the source.
#[derive(Debug, Clone)]
pub(super) enum Const {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Arc<str>),
}

/// An expression; `depth` is 1 more than that of its deepest part.
#[derive(Debug)]
pub(super) struct Expr {
    pub kind: Kind,
    pub line: u32,
    pub depth: u32,
}

/// Binary operators on values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
}

/// Comparisons, which can be chained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    NotIn,
}

/// The kinds of expression.
#[derive(Debug)]
pub(super) enum Kind {
    Const(Const),
    Name(Arc<str>),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    /// `a if test else b`: test, a, b.
    Cond(Box<Expr>, Box<Expr>, Option<Box<Expr>>),
    Or(Box<Expr>, Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Not(Box<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    Binary(Binary, Box<Expr>, Box<Expr>),
    Concat(Vec<Expr>),
    Neg(Box<Expr>),
    Pos(Box<Expr>),
    Attribute(Box<Expr>, Arc<str>),
    Item(Box<Expr>, Box<Expr>),
    Slice(Box<Expr>, Box<[Option<Expr>; 3]>),
    Call(Box<Expr>, Arguments),
    /// The operand is absent in `{% filter %}` and `{% set x | f %}`, where it is the block's text.
    Filter(Option<Box<Expr>>, Arc<str>, Arguments),
    Test(Box<Expr>, Arc<str>, Arguments),
}

/// The arguments of a call.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub positional: Vec<Expr>,
    pub named: Vec<(Arc<str>, Expr)>,
    pub star: Option<Box<Expr>>,
    pub star_star: Option<Box<Expr>>,
}

/// What can be assigned to.
#[derive(Debug)]
pub(super) enum Target {
    Name(Arc<str>),
    Attribute(Arc<str>, Arc<str>),
    Tuple(Vec<Target>),
}

/// `{% for %}`.
#[derive(Debug)]
pub(super) struct ForLoop {
    pub target: Target,
    pub iterable: Expr,
    pub test: Option<Expr>,
    pub recursive: bool,
    pub body: Vec<Statement>,
    pub otherwise: Vec<Statement>,
}

/// `{% macro %}`, and the body of `{% call %}`.
#[derive(Debug)]
pub(super) struct Macro {
    pub name: Arc<str>,
    pub parameters: Vec<Arc<str>>,
    /// The defaults of the last parameters.
    pub defaults: Vec<Expr>,
    pub body: Vec<Statement>,
    pub uses_caller: bool,
    pub uses_kwargs: bool,
    pub uses_varargs: bool,
}

/// A statement and the line where it begins.
#[derive(Debug)]
pub(super) struct Statement {
    pub line: u32,
    pub action: Action,
}

/// The kinds of statement.
#[derive(Debug)]
pub(super) enum Action {
    Text(Arc<str>),
    Print(Expr),
    For(Arc<ForLoop>),
    /// Branches with their tests, then `else`.
    If(Vec<(Expr, Vec<Statement>)>, Vec<Statement>),
    With(Vec<(Target, Expr)>, Vec<Statement>),
    Set(Target, Expr),
    /// `{% set x %}...{% endset %}` with the filter that the text goes through.
    SetBlock(Target, Option<Expr>, Vec<Statement>),
    FilterBlock(Expr, Vec<Statement>),
    Macro(Arc<Macro>),
    CallBlock(Expr, Arc<Macro>),
    /// `{% generation %}`: a scope of its own, rendered as its content.
    Generation(Vec<Statement>),
    Block(Vec<Statement>),
    Break,
    Continue,
    /// `{% include %}` and its like, which need other templates: an error when reached.
    NeedsLoader,
}
