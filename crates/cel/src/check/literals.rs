//! Lists and maps that are written out must hold values of one type.

use crate::check::Checked;
use crate::error::Issue;
use crate::syntax::Parsed;
use crate::syntax::ast::{Expr, Kind};
use crate::types::Type;

/// The places where a literal's element differs from its first. Arguments of `format` may be mixed.
pub(super) fn mixed(source: &str, parsed: &Parsed, checked: &Checked) -> Vec<Issue> {
    let mut finder = Finder {
        source,
        parsed,
        checked,
        issues: Vec::new(),
    };
    finder.visit(&parsed.root, false);
    finder.issues
}

struct Finder<'f> {
    source: &'f str,
    parsed: &'f Parsed,
    checked: &'f Checked,
    issues: Vec<Issue>,
}

impl Finder<'_> {
    fn type_of(&self, expr: &Expr, optional: bool) -> Type {
        match (self.checked.type_of(expr.id), optional) {
            (Type::Optional(inner), true) => Type::clone(inner),
            (ty, _) => ty.clone(),
        }
    }

    /// Compares with the first; says whether it fits.
    fn compare(&mut self, first: &mut Option<Type>, expr: &Expr, optional: bool) -> bool {
        let ty = self.type_of(expr, optional);
        match first {
            None => {
                *first = Some(ty);
                true
            }
            Some(first) if *first == ty => true,
            Some(first) => {
                let message = format!("expected type '{first}' but found '{ty}'");
                let issue = self.parsed.positions.issue(self.source, expr.id, message);
                self.issues.push(issue);
                false
            }
        }
    }

    fn visit(&mut self, expr: &Expr, exempt: bool) {
        match &expr.kind {
            Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select(select) => self.visit(&select.operand, exempt),
            Kind::Call(call) => {
                let exempt = exempt || &*call.function == "format";
                for part in call.target.iter().chain(&call.args) {
                    self.visit(part, exempt);
                }
            }
            Kind::List { elements, optional } => {
                let mut first = None;
                for (index, element) in elements.iter().enumerate() {
                    self.visit(element, exempt);
                    if !exempt && !self.compare(&mut first, element, optional.contains(&index)) {
                        return;
                    }
                }
            }
            Kind::Map(entries) => {
                let (mut key, mut value) = (None, None);
                for entry in entries {
                    self.visit(&entry.key, exempt);
                    self.visit(&entry.value, exempt);
                    if !exempt {
                        self.compare(&mut key, &entry.key, false);
                        self.compare(&mut value, &entry.value, entry.optional);
                    }
                }
            }
            Kind::Struct { fields, .. } => {
                for field in fields {
                    self.visit(&field.value, exempt);
                }
            }
            Kind::Comprehension(c) => {
                for part in [&c.range, &c.init, &c.condition, &c.step, &c.result] {
                    self.visit(part, exempt);
                }
            }
        }
    }
}
