//! The type checker: finds out what every part of an expression is, and what each name and call means.

mod infer;
mod literals;

use std::collections::HashMap;
use std::sync::Arc;

use crate::declare::{self, Function, Overload};
use crate::environment::Environment;
use crate::error::{CompileErrors, Issue};
use crate::syntax::ast::{
    Call, Comprehension, Entry, Expr, FieldInit, Id, Kind, Literal, Select, op, qualified_name,
};
use crate::syntax::{Parsed, Positions};
use crate::types::{ObjectType, Type};
use infer::Inference;

/// What the checker found out, by node.
pub(crate) struct Checked {
    pub(crate) types: Vec<Type>,
    pub(crate) references: HashMap<Id, Reference>,
}

/// What a name or a call means.
#[derive(Clone)]
pub(crate) enum Reference {
    /// A variable under this name.
    Variable(Arc<str>),
    /// A type by its name.
    Type(Type),
    /// One of these variants; `namespaced` where the target was part of the function's name.
    Call {
        function: &'static str,
        overloads: Vec<&'static Overload>,
        namespaced: bool,
    },
    /// An object of this type is made.
    Construct(Arc<ObjectType>),
}

impl Checked {
    pub(crate) fn type_of(&self, id: Id) -> &Type {
        self.types.get(id).unwrap_or(&Type::Dyn)
    }
}

/// Checks a parsed expression against what the environment declares.
pub(crate) fn check(
    environment: &Environment,
    source: &str,
    parsed: &Parsed,
) -> Result<Checked, CompileErrors> {
    let mut checker = Checker {
        environment,
        source,
        positions: &parsed.positions,
        infer: Inference::default(),
        types: vec![Type::Dyn; parsed.positions.len()],
        references: HashMap::new(),
        scopes: Vec::new(),
        issues: Vec::new(),
    };
    checker.expr(&parsed.root);
    if !checker.issues.is_empty() {
        return Err(CompileErrors::new(source, checker.issues));
    }
    let infer = checker.infer;
    let types = checker
        .types
        .iter()
        .map(|ty| infer.resolve(ty, true))
        .collect();
    let checked = Checked {
        types,
        references: checker.references,
    };
    let issues = literals::mixed(source, parsed, &checked);
    if !issues.is_empty() {
        return Err(CompileErrors::new(source, issues));
    }
    Ok(checked)
}

struct Checker<'c> {
    environment: &'c Environment,
    source: &'c str,
    positions: &'c Positions,
    infer: Inference,
    types: Vec<Type>,
    references: HashMap<Id, Reference>,
    scopes: Vec<(Arc<str>, Type)>,
    issues: Vec<Issue>,
}

impl Checker<'_> {
    fn report(&mut self, id: Id, message: String) {
        self.issues
            .push(self.positions.issue(self.source, id, message));
    }

    fn set(&mut self, id: Id, ty: Type) {
        if let Some(slot) = self.types.get_mut(id) {
            *slot = ty;
        }
    }

    fn get(&self, expr: &Expr) -> Type {
        self.types.get(expr.id).cloned().unwrap_or(Type::Dyn)
    }

    fn undeclared(&mut self, id: Id, name: &str) {
        self.report(
            id,
            format!("undeclared reference to '{name}' (in container '')"),
        );
        self.set(id, Type::Error);
    }

    fn expr(&mut self, expr: &Expr) {
        match &expr.kind {
            Kind::Literal(literal) => self.set(expr.id, literal_type(literal)),
            Kind::Ident(name) => {
                if !self.name(expr.id, name) {
                    self.undeclared(expr.id, name);
                }
            }
            Kind::Select(select) => self.select(expr, select),
            Kind::Call(call) => self.call(expr, call),
            Kind::List { elements, optional } => self.list(expr.id, elements, optional),
            Kind::Map(entries) => self.map(expr.id, entries),
            Kind::Struct { name, fields } => self.construct(expr.id, name, fields),
            Kind::Comprehension(comprehension) => self.comprehension(expr.id, comprehension),
        }
    }

    /// Resolves a name to a loop's variable, a declared variable or a type.
    fn name(&mut self, id: Id, name: &str) -> bool {
        let name = name.strip_prefix('.').unwrap_or(name);
        let local = self.scopes.iter().rev().find(|(local, _)| &**local == name);
        let found = match local {
            Some((local, ty)) => Some((ty.clone(), Reference::Variable(local.clone()))),
            None => match self.environment.variable(name) {
                Some((declared, schema)) => {
                    Some((schema.to_type(), Reference::Variable(declared.clone())))
                }
                None => self
                    .environment
                    .type_named(name)
                    .map(|ty| (Type::TypeOf(Arc::new(ty.clone())), Reference::Type(ty))),
            },
        };
        match found {
            Some((ty, reference)) => {
                self.set(id, ty);
                self.references.insert(id, reference);
                true
            }
            None => false,
        }
    }

    fn select(&mut self, expr: &Expr, select: &Select) {
        if let Some(name) = qualified_name(expr)
            && self.name(expr.id, &name)
        {
            return;
        }
        let mut ty = self.field(expr.id, &select.operand, &select.field, false);
        if select.test_only {
            ty = Type::Bool;
        }
        self.set(expr.id, ty);
    }

    fn field(&mut self, id: Id, operand: &Expr, field: &str, optional: bool) -> Type {
        self.expr(operand);
        let operand_type = self.infer.resolve(&self.get(operand), false);
        let (target, is_optional) = unwrap_optional(&operand_type);
        let result = match &target {
            Type::Map(entry) => entry.1.clone(),
            Type::Object(object) => match object.field(field) {
                Some(ty) => ty,
                None => {
                    self.report(id, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            Type::Var(_) => {
                self.infer.assignable(&Type::Dyn, &target);
                Type::Dyn
            }
            _ => {
                if !target.is_dyn_or_error() {
                    self.report(
                        id,
                        format!("type '{target}' does not support field selection"),
                    );
                }
                Type::Dyn
            }
        };
        let result = self.infer.resolve(&result, false);
        if is_optional || optional {
            return Type::optional(result);
        }
        result
    }

    fn call(&mut self, expr: &Expr, call: &Call) {
        if &*call.function == op::OPT_SELECT {
            if let [operand, field] = call.args.as_slice()
                && let Kind::Literal(Literal::String(name)) = &field.kind
            {
                self.set(field.id, Type::String);
                let ty = self.field(expr.id, operand, name, true);
                self.set(expr.id, ty);
            }
            return;
        }
        for arg in &call.args {
            self.expr(arg);
        }
        let name = call.function.strip_prefix('.').unwrap_or(&call.function);
        let Some(target) = &call.target else {
            match self.function(name) {
                Some(function) => self.resolve_call(expr.id, function, None, &call.args, false),
                None => self.undeclared(expr.id, name),
            }
            return;
        };
        if let Some(prefix) = qualified_name(target)
            && let Some(function) = self.function(&format!("{prefix}.{name}"))
        {
            self.resolve_call(expr.id, function, None, &call.args, true);
            return;
        }
        self.expr(target);
        match self.function(name) {
            Some(function) => self.resolve_call(expr.id, function, Some(target), &call.args, false),
            None => self.undeclared(expr.id, name),
        }
    }

    fn function(&self, name: &str) -> Option<&'static Function> {
        if !self.environment.offers(name) {
            return None;
        }
        declare::function(name)
    }

    fn resolve_call(
        &mut self,
        id: Id,
        function: &'static Function,
        target: Option<&Expr>,
        args: &[Expr],
        namespaced: bool,
    ) {
        let types: Vec<Type> = target
            .into_iter()
            .chain(args)
            .map(|arg| self.get(arg))
            .collect();
        if function.name == op::AND || function.name == op::OR {
            for (arg, ty) in args.iter().zip(&types) {
                if !self.infer.assignable(ty, &Type::Bool) {
                    let ty = self.infer.resolve(ty, false);
                    self.report(arg.id, format!("expected type 'bool' but found '{ty}'"));
                }
            }
        }
        let mut result: Option<Type> = None;
        let mut overloads = Vec::new();
        for overload in &function.overloads {
            if overload.member != target.is_some() || overload.params.len() != types.len() {
                continue;
            }
            let (params, overload_result) = self.infer.instantiate(overload);
            if !self.infer.all_assignable(&types, &params) {
                continue;
            }
            overloads.push(overload);
            let ty = self.infer.resolve(&overload_result, false);
            result = Some(match result {
                None => ty,
                Some(Type::Dyn) => Type::Dyn,
                Some(first) if first == ty => first,
                Some(_) => Type::Dyn,
            });
        }
        let Some(result) = result else {
            self.no_overload(id, function.name, &types, target.is_some());
            return;
        };
        self.set(id, result);
        self.references.insert(
            id,
            Reference::Call {
                function: function.name,
                overloads,
                namespaced,
            },
        );
    }

    fn no_overload(&mut self, id: Id, name: &str, types: &[Type], member: bool) {
        self.set(id, Type::Error);
        if matches!(name, op::AND | op::OR) {
            return;
        }
        let mut shown = types
            .iter()
            .map(|ty| self.infer.resolve(ty, true).to_string());
        let receiver = if member {
            shown.next().map(|ty| format!("{ty}.")).unwrap_or_default()
        } else {
            String::new()
        };
        let args = shown.collect::<Vec<_>>().join(", ");
        self.report(
            id,
            format!("found no matching overload for '{name}' applied to '{receiver}({args})'"),
        );
    }

    fn list(&mut self, id: Id, elements: &[Expr], optional: &[usize]) {
        let mut element_type = None;
        for (index, element) in elements.iter().enumerate() {
            self.expr(element);
            let ty = self.element(element, optional.contains(&index));
            element_type = Some(self.join(element_type, ty));
        }
        let element_type = element_type.unwrap_or_else(|| self.infer.fresh());
        let ty = self.infer.resolve(&Type::list(element_type), false);
        self.set(id, ty);
    }

    /// The type that an element, entry or field adds, an optional one unwrapped.
    fn element(&mut self, element: &Expr, optional: bool) -> Type {
        let ty = self.infer.resolve(&self.get(element), false);
        if !optional {
            return ty;
        }
        let (inner, is_optional) = unwrap_optional(&ty);
        if !is_optional && !inner.is_dyn() {
            let wanted = Type::optional(inner.clone());
            self.report(
                element.id,
                format!("expected type '{wanted}' but found '{inner}'"),
            );
        }
        inner
    }

    fn join(&mut self, previous: Option<Type>, current: Type) -> Type {
        let Some(previous) = previous else {
            return current;
        };
        if self.infer.assignable(&previous, &current) {
            return infer::most_general(&previous, &current);
        }
        Type::Dyn
    }

    fn map(&mut self, id: Id, entries: &[Entry]) {
        let mut key_type = None;
        let mut value_type = None;
        for entry in entries {
            self.expr(&entry.key);
            let ty = self.infer.resolve(&self.get(&entry.key), false);
            key_type = Some(self.join(key_type, ty));
            self.expr(&entry.value);
            let ty = self.element(&entry.value, entry.optional);
            value_type = Some(self.join(value_type, ty));
        }
        let key_type = key_type.unwrap_or_else(|| self.infer.fresh());
        let value_type = value_type.unwrap_or_else(|| self.infer.fresh());
        let ty = self.infer.resolve(&Type::map(key_type, value_type), false);
        self.set(id, ty);
    }

    fn construct(&mut self, id: Id, name: &str, fields: &[FieldInit]) {
        let plain = name.strip_prefix('.').unwrap_or(name);
        let object = match self.environment.type_named(plain) {
            Some(Type::Object(object)) => Some(object),
            Some(other) => {
                self.report(
                    id,
                    format!("'{}' is not a message type", other.runtime_name()),
                );
                None
            }
            None if self.environment.variable(plain).is_some() => {
                self.report(id, format!("'{plain}' is not a type"));
                None
            }
            None => {
                self.undeclared(id, name);
                return;
            }
        };
        for field in fields {
            self.expr(&field.value);
            let value = self.element(&field.value, field.optional);
            let Some(object) = &object else { continue };
            match object.field(&field.name) {
                None => self.report(field.id, format!("undefined field '{}'", field.name)),
                Some(ty) if !self.infer.assignable(&ty, &value) => self.report(
                    field.id,
                    format!(
                        "expected type of field '{}' is '{ty}' but provided type is '{value}'",
                        field.name
                    ),
                ),
                Some(_) => {}
            }
        }
        match object {
            Some(object) => {
                self.set(id, Type::Object(object.clone()));
                self.references.insert(id, Reference::Construct(object));
            }
            None => self.set(id, Type::Error),
        }
    }

    fn comprehension(&mut self, id: Id, c: &Comprehension) {
        self.expr(&c.range);
        self.expr(&c.init);
        let range = self.infer.resolve(&self.get(&c.range), false);
        let accu = self.get(&c.init);
        self.scopes.push((c.accu.clone(), accu.clone()));
        let (first, second) = match &range {
            Type::List(element) if c.var2.is_some() => (Type::Int, Type::clone(element)),
            Type::List(element) => (Type::clone(element), Type::Dyn),
            Type::Map(entry) => (entry.0.clone(), entry.1.clone()),
            Type::Dyn | Type::Error | Type::Var(_) => {
                self.infer.assignable(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                self.report(
                    c.range.id,
                    format!("expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"),
                );
                (Type::Error, Type::Error)
            }
        };
        let depth = self.scopes.len();
        self.scopes.push((c.var.clone(), first));
        if let Some(var2) = &c.var2 {
            self.scopes.push((var2.clone(), second));
        }
        self.expr(&c.condition);
        self.expect_type(&c.condition, &Type::Bool);
        self.expr(&c.step);
        self.expect_type(&c.step, &accu);
        self.scopes.truncate(depth);
        self.expr(&c.result);
        self.scopes.truncate(depth - 1);
        let ty = self.infer.resolve(&self.get(&c.result), false);
        self.set(id, ty);
    }

    fn expect_type(&mut self, expr: &Expr, wanted: &Type) {
        let found = self.get(expr);
        if !self.infer.assignable(wanted, &found) {
            self.report(
                expr.id,
                format!("expected type '{wanted}' but found '{found}'"),
            );
        }
    }
}

fn literal_type(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}

fn unwrap_optional(ty: &Type) -> (Type, bool) {
    match ty {
        Type::Optional(inner) => (Type::clone(inner), true),
        other => (other.clone(), false),
    }
}
