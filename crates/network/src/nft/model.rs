//! The kernel's table as a plain value: what a transaction does to it, and what the kernel refuses.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::rule::{Chain, Key, Name, Op, Set, Shape, Statement, Transaction, Value};

/// A table in memory that obeys the kernel's rules about references.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// All chains.
    pub chains: BTreeMap<Name, Chain>,
    /// All sets.
    pub sets: BTreeMap<Name, Set>,
}

/// Why the kernel would refuse a transaction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The thing exists already.
    #[error("{0} exists already")]
    Exists(String),
    /// The thing does not exist.
    #[error("{0} does not exist")]
    Missing(String),
    /// Something still refers to it.
    #[error("{0} is in use")]
    Busy(String),
}

impl Model {
    /// Makes the changes, or none of them.
    ///
    /// # Errors
    /// The first change that the kernel would refuse.
    pub fn apply(&mut self, transaction: &Transaction) -> Result<(), Violation> {
        let mut next = self.clone();
        for op in &transaction.ops {
            next.step(op)?;
        }
        *self = next;
        Ok(())
    }

    fn step(&mut self, op: &Op) -> Result<(), Violation> {
        match op {
            Op::AddSet(name, shape) => self.add_set(name, shape),
            Op::AddChain(name, hook) => {
                let chain = Chain {
                    hook: *hook,
                    rules: Vec::new(),
                };
                match self.chains.insert(name.clone(), chain) {
                    Some(_) => Err(Violation::Exists(name.to_string())),
                    None => Ok(()),
                }
            }
            Op::FlushChain(name) => {
                self.chain(name)?.rules.clear();
                Ok(())
            }
            Op::AddRule(name, rule) => {
                for chain in rule.iter().flat_map(Statement::chains) {
                    self.chain(chain)?;
                }
                for set in rule.iter().flat_map(Statement::sets) {
                    self.set(set)?;
                }
                self.chain(name)?.rules.push(rule.clone());
                Ok(())
            }
            Op::DeleteElements(name, _, keys) => {
                let set = self.set(name)?;
                keys.iter().try_for_each(|key| {
                    let gone = set.elements.remove(key);
                    gone.map(drop).ok_or_else(|| missing(name, key))
                })
            }
            Op::AddElements(name, _, elements) => self.add_elements(name, elements),
            Op::DeleteChain(name) => {
                let empty = self.chain(name)?.rules.is_empty();
                if !empty || self.refers_to_chain(name) {
                    return Err(Violation::Busy(name.to_string()));
                }
                self.chains.remove(name);
                Ok(())
            }
            Op::DeleteSet(name) => {
                self.set(name)?;
                if self.refers_to_set(name) {
                    return Err(Violation::Busy(name.to_string()));
                }
                self.sets.remove(name);
                Ok(())
            }
        }
    }

    fn add_set(&mut self, name: &Name, shape: &Arc<Shape>) -> Result<(), Violation> {
        let set = Set {
            shape: shape.clone(),
            elements: BTreeMap::new(),
        };
        match self.sets.insert(name.clone(), set) {
            Some(_) => Err(Violation::Exists(name.to_string())),
            None => Ok(()),
        }
    }

    fn add_elements(&mut self, name: &Name, elements: &[(Key, Value)]) -> Result<(), Violation> {
        for chain in elements.iter().filter_map(|(_, value)| value.chain()) {
            self.chain(chain)?;
        }
        let set = self.set(name)?;
        for (key, value) in elements {
            if set.elements.insert(key.clone(), value.clone()).is_some() {
                return Err(Violation::Exists(format!("{name}: {key:?}")));
            }
        }
        Ok(())
    }

    fn chain(&mut self, name: &Name) -> Result<&mut Chain, Violation> {
        self.chains
            .get_mut(name)
            .ok_or_else(|| Violation::Missing(name.to_string()))
    }

    fn set(&mut self, name: &Name) -> Result<&mut Set, Violation> {
        self.sets
            .get_mut(name)
            .ok_or_else(|| Violation::Missing(name.to_string()))
    }

    fn refers_to_chain(&self, name: &Name) -> bool {
        let by_rule = self
            .chains
            .values()
            .flat_map(|chain| chain.rules.iter().flatten())
            .flat_map(Statement::chains)
            .any(|chain| chain == name);
        by_rule
            || self
                .sets
                .values()
                .flat_map(|set| set.elements.values())
                .any(|value| value.chain() == Some(name))
    }

    fn refers_to_set(&self, name: &Name) -> bool {
        self.chains
            .values()
            .flat_map(|chain| chain.rules.iter().flatten())
            .flat_map(Statement::sets)
            .any(|set| set == name)
    }
}

fn missing(name: &Name, key: &Key) -> Violation {
    Violation::Missing(format!("{name}: {key:?}"))
}
