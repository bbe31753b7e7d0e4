//! The tree keeps to the house rules: crates depend downwards only, every file is reachable, nothing grows too long.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The levels of the design; a crate depends on crates of lower levels only.
const LEVELS: &[(&str, u8)] = &[
    ("base", 0),
    ("api", 0),
    ("streaming", 0),
    ("cel", 0),
    ("store", 1),
    ("client", 1),
    ("runtime", 1),
    ("network", 1),
    ("apiserver", 2),
    ("scheduler", 2),
    ("controllers", 2),
    ("kubelet", 2),
    ("proxy", 2),
    ("simulation", 2),
    ("skiff", 3),
];
/// For tests only: it may depend on everything below the top, and only tests may depend on it.
const TEST_CRATE: &str = "testkit";

const MAX_FILE: usize = 800;
const MAX_FUNCTION: usize = 100;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

fn level(name: &str) -> Option<u8> {
    LEVELS
        .iter()
        .find(|(crate_name, _)| *crate_name == name)
        .map(|(_, level)| *level)
}

/// The skiff crates that a manifest's table names.
fn dependencies(manifest: &str, table: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.trim() == table;
        } else if inside && let Some(rest) = line.strip_prefix("skiff-") {
            found.push(
                rest.chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '-')
                    .collect(),
            );
        }
    }
    found
}

#[test]
fn crates_depend_downwards_only() {
    let mut wrong = Vec::new();
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name == TEST_CRATE {
            continue;
        }
        let Some(own) = level(&name) else {
            wrong.push(format!("{name} has no level in this test"));
            continue;
        };
        let manifest = fs::read_to_string(path.join("Cargo.toml")).unwrap();
        for dependency in dependencies(&manifest, "[dependencies]") {
            if level(&dependency).is_none_or(|level| level >= own) {
                wrong.push(format!("{name} depends on {dependency}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn only_the_api_server_sees_the_store_and_only_the_kubelet_the_runtime() {
    for (seen, by) in [
        ("store", ["apiserver", "skiff"]),
        ("runtime", ["kubelet", "skiff"]),
    ] {
        for (name, _) in LEVELS {
            let manifest =
                fs::read_to_string(root().join("crates").join(name).join("Cargo.toml")).unwrap();
            let depends = dependencies(&manifest, "[dependencies]")
                .iter()
                .any(|dependency| dependency == seen);
            assert!(!depends || by.contains(name), "{name} depends on {seen}");
        }
    }
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("crates")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if path.file_name().is_none_or(|name| name != "target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The files that may declare a module: `x/mod.rs`, `x.rs`, and the roots.
fn parents(file: &Path) -> Vec<PathBuf> {
    let folder = file.parent().unwrap();
    let folder = if file.file_name().unwrap() == "mod.rs" {
        folder.parent().unwrap()
    } else {
        folder
    };
    let mut parents: Vec<PathBuf> = ["mod.rs", "lib.rs", "main.rs"]
        .iter()
        .map(|name| folder.join(name))
        .collect();
    parents.push(folder.with_extension("rs"));
    parents
}

#[test]
fn every_file_is_reachable_from_its_crate_root() {
    let files: BTreeSet<PathBuf> = sources().into_iter().collect();
    let mut lost = Vec::new();
    for file in &files {
        let name = file.file_name().unwrap().to_string_lossy();
        let in_source = file.components().any(|part| part.as_os_str() == "src");
        let is_binary = file.parent().unwrap().ends_with("src/bin");
        if !in_source || is_binary || matches!(&*name, "lib.rs" | "main.rs") {
            continue;
        }
        let module = if name == "mod.rs" {
            file.parent().unwrap().file_name().unwrap()
        } else {
            file.file_stem().unwrap()
        };
        let declaration = format!("mod {};", module.to_string_lossy());
        let by_path = format!("#[path = \"{name}\"]");
        let siblings = files.iter().filter(|other| other.parent() == file.parent());
        let declares = |parent: &Path, wanted: &str| {
            let text = fs::read_to_string(parent).unwrap();
            text.lines().any(|line| line.trim_end().ends_with(wanted))
        };
        let declared = parents(file)
            .iter()
            .filter(|parent| files.contains(*parent))
            .any(|parent| declares(parent, &declaration))
            || siblings
                .into_iter()
                .any(|sibling| declares(sibling, &by_path));
        if !declared {
            lost.push(file.clone());
        }
    }
    assert!(lost.is_empty(), "no module declares {lost:#?}");
}

/// The lines before the file's own test module.
fn code(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or(text)
}

#[test]
fn files_and_functions_stay_short() {
    let mut long = Vec::new();
    for file in sources() {
        // Tests may be long tables.
        let tests = file.components().any(|part| part.as_os_str() == "tests");
        if tests
            || file
                .file_name()
                .is_some_and(|name| name.to_string_lossy().ends_with("tests.rs"))
        {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = code(&text).lines().collect();
        if lines.len() > MAX_FILE {
            long.push(format!("{}: {} lines", file.display(), lines.len()));
        }
        long.extend(
            functions(&lines)
                .into_iter()
                .filter(|(_, length)| *length > MAX_FUNCTION)
                .map(|(name, length)| format!("{}: {name} has {length} lines", file.display())),
        );
    }
    assert!(long.is_empty(), "{long:#?}");
}

/// The functions of formatted code with their lengths: from the line with `fn` to the brace at the same indent.
fn functions(lines: &[&str]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let body = line.trim_start();
        let indent = line.len() - body.len();
        let mut words = body
            .split_whitespace()
            .take_while(|word| !word.contains('('));
        let is_function = !body.starts_with("//")
            && (body.starts_with("fn ") || words.any(|word| word == "fn") && !body.contains('"'));
        if !is_function {
            continue;
        }
        let closing = format!("{}}}", " ".repeat(indent));
        let end = lines[start..].iter().position(|line| {
            **line == closing
                || line.ends_with(';') && line.len() - line.trim_start().len() == indent
        });
        if let Some(end) = end {
            found.push((body.chars().take(60).collect(), end + 1));
        }
    }
    found
}

#[test]
fn the_measure_of_functions_measures() {
    let text = "impl X {\n    pub fn long(&self) {\n        a();\n\n        b();\n    }\n\n    fn short(&self) {}\n}\n";
    let lines: Vec<&str> = text.lines().collect();
    let measured = functions(&lines);
    assert_eq!(measured[0].1, 5);
}
