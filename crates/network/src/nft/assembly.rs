//! Merges the fragments of many owners into one table and turns changes into deltas.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::rule::{Fragment, Key, Name, Op, Set, Shape, Transaction, Value};

/// The fragments that make up a table.
///
/// The base fragment (hooks and shared sets) is given once; the others come and go.
#[derive(Debug)]
pub struct Assembly<Owner> {
    base: Fragment,
    fragments: BTreeMap<Owner, Fragment>,
    /// Who claims which element of a shared set; the first owner in order has it.
    claims: BTreeMap<(Name, Key), BTreeSet<Owner>>,
}

impl<Owner: Ord + Clone> Assembly<Owner> {
    /// A table with only the base in it.
    #[must_use]
    pub fn new(base: Fragment) -> Self {
        Self {
            base,
            fragments: BTreeMap::new(),
            claims: BTreeMap::new(),
        }
    }

    /// The transaction that makes the whole table in an empty one.
    #[must_use]
    pub fn whole(&self) -> Transaction {
        let mut ops = Vec::new();
        let nothing = Fragment::default();
        own_additions(&nothing, &self.base, &mut ops);
        for fragment in self.fragments.values() {
            own_additions(&nothing, fragment, &mut ops);
        }
        let mut added = BTreeMap::new();
        for (place, owners) in &self.claims {
            if let Some(value) = self.value_of(place, owners.first()) {
                added.insert(place.clone(), value.clone());
            }
        }
        self.element_ops(BTreeSet::new(), added, &mut ops);
        Transaction { ops }
    }

    /// What `owner` asks for at present.
    #[must_use]
    pub fn get(&self, owner: &Owner) -> Option<&Fragment> {
        self.fragments.get(owner)
    }

    /// Everyone who asks for something.
    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.fragments.keys()
    }

    /// Sets what `owner` asks for (nothing, if none) and returns the change to the table.
    pub fn replace(&mut self, owner: &Owner, new: Option<Fragment>) -> Transaction {
        let nothing = Fragment::default();
        let old = self.fragments.remove(owner).unwrap_or_default();
        if new.as_ref() == Some(&old) {
            self.fragments.insert(owner.clone(), old);
            return Transaction::default();
        }
        let (deleted, added) = self.reclaim(owner, &old, new.as_ref().unwrap_or(&nothing));
        let mut ops = Vec::new();
        {
            let new = new.as_ref().unwrap_or(&nothing);
            own_additions(&old, new, &mut ops);
        }
        self.element_ops(deleted, added, &mut ops);
        own_deletions(&old, new.as_ref().unwrap_or(&nothing), &mut ops);
        if let Some(new) = new {
            self.fragments.insert(owner.clone(), new);
        }
        Transaction { ops }
    }

    /// Moves the owner's claims from `old` to `new`; returns which shared elements go and come.
    #[allow(clippy::type_complexity, reason = "two plain collections")]
    fn reclaim(
        &mut self,
        owner: &Owner,
        old: &Fragment,
        new: &Fragment,
    ) -> (BTreeSet<(Name, Key)>, BTreeMap<(Name, Key), Value>) {
        let (mut deleted, mut added) = (BTreeSet::new(), BTreeMap::new());
        let places: BTreeSet<_> = old.shared.keys().chain(new.shared.keys()).collect();
        for place in places {
            let (was, is) = (old.shared.get(place), new.shared.get(place));
            if was == is {
                continue;
            }
            let owners = self.claims.entry(place.clone()).or_default();
            let before = owners.first().cloned();
            match is {
                Some(_) => owners.insert(owner.clone()),
                None => owners.remove(owner),
            };
            let after = owners.first().cloned();
            if owners.is_empty() {
                self.claims.remove(place);
            }
            // The owner's own fragment is out of the map just now, so its values come from here.
            let value = |holder: &Option<Owner>, own: Option<&Value>| match holder {
                None => None,
                Some(holder) if holder == owner => own.cloned(),
                Some(holder) => self.value_of(place, Some(holder)).cloned(),
            };
            let (before, after) = (value(&before, was), value(&after, is));
            if before == after {
                continue;
            }
            if before.is_some() {
                deleted.insert(place.clone());
            }
            if let Some(after) = after {
                added.insert(place.clone(), after);
            }
        }
        (deleted, added)
    }

    fn value_of(&self, place: &(Name, Key), owner: Option<&Owner>) -> Option<&Value> {
        self.fragments.get(owner?)?.shared.get(place)
    }

    fn shape(&self, set: &Name) -> Option<Arc<Shape>> {
        self.base.sets.get(set).map(|set| set.shape.clone())
    }

    fn element_ops(
        &self,
        deleted: BTreeSet<(Name, Key)>,
        added: BTreeMap<(Name, Key), Value>,
        ops: &mut Vec<Op>,
    ) {
        let mut goes: BTreeMap<Name, Vec<Key>> = BTreeMap::new();
        for (set, key) in deleted {
            goes.entry(set).or_default().push(key);
        }
        let mut comes: BTreeMap<Name, Vec<(Key, Value)>> = BTreeMap::new();
        for ((set, key), value) in added {
            comes.entry(set).or_default().push((key, value));
        }
        let sets: BTreeSet<Name> = goes.keys().chain(comes.keys()).cloned().collect();
        for set in sets {
            let deleted = goes.remove(&set).unwrap_or_default();
            let added = comes.remove(&set).unwrap_or_default();
            // An element of a set that the base does not have cannot be.
            let Some(shape) = self.shape(&set) else {
                debug_assert!(false, "no shared set {set}");
                continue;
            };
            if !deleted.is_empty() {
                ops.push(Op::DeleteElements(set.clone(), shape.clone(), deleted));
            }
            if !added.is_empty() {
                ops.push(Op::AddElements(set, shape, added));
            }
        }
    }
}

/// Sets, elements, chains and rules that `new` has and `old` has not. Sets come first and rules
/// last, so that nothing refers to what is not there yet.
fn own_additions(old: &Fragment, new: &Fragment, ops: &mut Vec<Op>) {
    for (name, set) in &new.sets {
        // A set whose shape changes gets a new name from its planner; the same name is the same shape.
        let before = old.sets.get(name);
        if before.is_none() {
            ops.push(Op::AddSet(name.clone(), set.shape.clone()));
        }
        element_changes(name, before, set, ops);
    }
    for (name, chain) in &new.chains {
        if !old.chains.contains_key(name) {
            ops.push(Op::AddChain(name.clone(), chain.hook));
        }
    }
    for (name, chain) in &new.chains {
        match old.chains.get(name) {
            Some(before) if before.rules == chain.rules => continue,
            Some(_) => ops.push(Op::FlushChain(name.clone())),
            None => {}
        }
        for rule in &chain.rules {
            ops.push(Op::AddRule(name.clone(), rule.clone()));
        }
    }
}

fn element_changes(name: &Name, before: Option<&Set>, set: &Set, ops: &mut Vec<Op>) {
    let old = before.map(|set| &set.elements);
    let was = |key: &Key| old.and_then(|elements| elements.get(key));
    let deleted: Vec<Key> = old
        .into_iter()
        .flatten()
        .filter(|(key, value)| set.elements.get(*key) != Some(*value))
        .map(|(key, _)| key.clone())
        .collect();
    let added: Vec<(Key, Value)> = set
        .elements
        .iter()
        .filter(|(key, value)| was(key) != Some(*value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if !deleted.is_empty() {
        ops.push(Op::DeleteElements(name.clone(), set.shape.clone(), deleted));
    }
    if !added.is_empty() {
        ops.push(Op::AddElements(name.clone(), set.shape.clone(), added));
    }
}

/// Chains and sets that `old` has and `new` has not. All rules go first, because they may refer to
/// each other's chains.
fn own_deletions(old: &Fragment, new: &Fragment, ops: &mut Vec<Op>) {
    let chains: Vec<&Name> = old
        .chains
        .keys()
        .filter(|name| !new.chains.contains_key(*name))
        .collect();
    ops.extend(chains.iter().map(|name| Op::FlushChain((*name).clone())));
    ops.extend(chains.iter().map(|name| Op::DeleteChain((*name).clone())));
    ops.extend(
        old.sets
            .keys()
            .filter(|name| !new.sets.contains_key(*name))
            .map(|name| Op::DeleteSet(name.clone())),
    );
}
