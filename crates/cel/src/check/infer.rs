//! Which types fit where, with type parameters found out on the way.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use crate::declare::Overload;
use crate::types::Type;

/// How many parts a type may have before the rest of it is dyn: types that hold themselves twice over double in size
/// with every level.
const MAX_TYPE_SIZE: u32 = 512;
/// How many comparisons one question of fitting may take.
const MAX_STEPS: u32 = 20_000;

/// What is known of the types that are still open.
#[derive(Default)]
pub(super) struct Inference {
    known: HashMap<u32, Type>,
    next: u32,
    /// What to undo when a trial fails: a variable and what was known before.
    undo: Vec<(u32, Option<Type>)>,
    steps: Cell<u32>,
}

impl Inference {
    /// A type that is open.
    pub(super) fn fresh(&mut self) -> Type {
        self.next += 1;
        Type::Var(self.next - 1)
    }

    /// A variant's parameters and result, its type parameters made open types of this call.
    pub(super) fn instantiate(&mut self, overload: &Overload) -> (Vec<Type>, Type) {
        let mut names: Vec<(&'static str, Type)> = Vec::new();
        let params = overload
            .params
            .iter()
            .map(|param| self.replace(param, &mut names))
            .collect();
        let result = self.replace(&overload.result, &mut names);
        (params, result)
    }

    fn replace(&mut self, ty: &Type, names: &mut Vec<(&'static str, Type)>) -> Type {
        match ty {
            Type::Param(name) => {
                if let Some((_, ty)) = names.iter().find(|(known, _)| known == name) {
                    return ty.clone();
                }
                let fresh = self.fresh();
                names.push((name, fresh.clone()));
                fresh
            }
            Type::List(element) => Type::list(self.replace(element, names)),
            Type::Optional(inner) => Type::optional(self.replace(inner, names)),
            Type::TypeOf(inner) => Type::TypeOf(Arc::new(self.replace(inner, names))),
            Type::Map(entry) => {
                let key = self.replace(&entry.0, names);
                Type::map(key, self.replace(&entry.1, names))
            }
            other => other.clone(),
        }
    }

    /// The type with what is known put in; what is not known becomes dyn if `close`.
    pub(super) fn resolve(&self, ty: &Type, close: bool) -> Type {
        self.resolve_within(ty, close, &mut MAX_TYPE_SIZE.clone())
    }

    fn resolve_within(&self, ty: &Type, close: bool, budget: &mut u32) -> Type {
        *budget = budget.saturating_sub(1);
        if *budget == 0 {
            return Type::Dyn;
        }
        match ty {
            Type::Var(number) => match self.known.get(number) {
                Some(known) => self.resolve_within(known, close, budget),
                None if close => Type::Dyn,
                None => ty.clone(),
            },
            Type::List(element) => Type::list(self.resolve_within(element, close, budget)),
            Type::Optional(inner) => Type::optional(self.resolve_within(inner, close, budget)),
            Type::TypeOf(inner) => {
                Type::TypeOf(Arc::new(self.resolve_within(inner, close, budget)))
            }
            Type::Map(entry) => {
                let key = self.resolve_within(&entry.0, close, budget);
                Type::map(key, self.resolve_within(&entry.1, close, budget))
            }
            other => other.clone(),
        }
    }

    /// Whether `a` fits `b`; remembers what that says of open types, unless it does not fit.
    pub(super) fn assignable(&mut self, a: &Type, b: &Type) -> bool {
        self.steps.set(0);
        let mark = self.undo.len();
        let fits = self.fits(a, b);
        self.settle(mark, fits)
    }

    /// Whether all of `a` fit all of `b`, in one go.
    pub(super) fn all_assignable(&mut self, a: &[Type], b: &[Type]) -> bool {
        self.steps.set(0);
        let mark = self.undo.len();
        let fits = a.iter().zip(b).all(|(a, b)| self.fits(a, b));
        self.settle(mark, fits)
    }

    fn settle(&mut self, mark: usize, fits: bool) -> bool {
        if fits {
            self.undo.clear();
            return true;
        }
        while self.undo.len() > mark {
            match self.undo.pop() {
                Some((number, Some(before))) => {
                    self.known.insert(number, before);
                }
                Some((number, None)) => {
                    self.known.remove(&number);
                }
                None => {}
            }
        }
        false
    }

    fn learn(&mut self, number: u32, ty: Type) {
        let before = self.known.insert(number, ty);
        self.undo.push((number, before));
    }

    fn step(&self) -> bool {
        self.steps.set(self.steps.get() + 1);
        self.steps.get() < MAX_STEPS
    }

    fn fits(&mut self, a: &Type, b: &Type) -> bool {
        if !self.step() {
            return false;
        }
        if let Type::Var(number) = b {
            let (fits, known) = self.substitutes(a, *number);
            if fits || known {
                return fits;
            }
        }
        if let Type::Var(number) = a {
            return self.substitutes(b, *number).0;
        }
        if a.is_dyn_or_error() || b.is_dyn_or_error() {
            return true;
        }
        match (a, b) {
            (Type::Null, other) | (other, Type::Null) => matches!(
                other,
                Type::Null
                    | Type::Object(_)
                    | Type::Opaque(_)
                    | Type::Optional(_)
                    | Type::Duration
                    | Type::Timestamp
            ),
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => {
                self.fits(a, b)
            }
            (Type::Map(a), Type::Map(b)) => self.fits(&a.0, &b.0) && self.fits(&a.1, &b.1),
            (Type::TypeOf(_), Type::TypeOf(_)) => true,
            _ => a == b,
        }
    }

    /// Whether the open type can be `a`, and whether it was known before.
    fn substitutes(&mut self, a: &Type, number: u32) -> (bool, bool) {
        if *a == Type::Var(number) {
            return (true, true);
        }
        if let Some(known) = self.known.get(&number).cloned() {
            if *a == known {
                return (true, true);
            }
            if self.fits(a, &known) {
                let general = most_general(a, &known);
                if !self.occurs(number, &general) {
                    self.learn(number, general);
                }
                return (true, true);
            }
            return (false, true);
        }
        if self.occurs(number, a) {
            return (false, false);
        }
        self.learn(number, a.clone());
        (true, false)
    }

    fn occurs(&self, number: u32, within: &Type) -> bool {
        if !self.step() {
            return true;
        }
        match within {
            Type::Var(other) if *other == number => true,
            Type::Var(other) => self
                .known
                .get(other)
                .is_some_and(|known| self.occurs(number, known)),
            Type::List(inner) | Type::Optional(inner) | Type::TypeOf(inner) => {
                self.occurs(number, inner)
            }
            Type::Map(entry) => self.occurs(number, &entry.0) || self.occurs(number, &entry.1),
            _ => false,
        }
    }
}

/// The more general of two types that fit each other.
pub(super) fn most_general(a: &Type, b: &Type) -> Type {
    if less_specific(a, b) {
        a.clone()
    } else {
        b.clone()
    }
}

fn less_specific(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Var(_), _) => true,
        (_, Type::Dyn | Type::Var(_)) => false,
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => {
            less_specific(a, b)
        }
        (Type::Map(a), Type::Map(b)) => less_specific(&a.0, &b.0) && less_specific(&a.1, &b.1),
        (Type::TypeOf(_), Type::TypeOf(_)) => true,
        _ => a == b,
    }
}
